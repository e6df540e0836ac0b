"""DINOv2 (Oquab et al. 2023) as a detector: FD-DINOv2 of EDM2 and of Stein et al. 2023.

Needs the ``transformers`` package (the extra "dino"). Images are resized to 224x224 by antialiased
bicubic interpolation in float32 and normalised with ImageNet's mean and spread; the feature is the class token after
the last layer norm (1024-d for ViT-L/14, the default).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import sha256_of_file
from nomadiff.metrics.detectors.protocol import check_images

__all__ = ["DINOv2"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DINOv2:
    """Class-token features of a DINOv2 vision transformer.

    Args:
        device: where it computes.
        weights: folder or Hugging Face id of a model that ``transformers`` reads; by default
            ``facebook/dinov2-large``. Its safetensors file is hashed, so that a figure names its weights.

    Raises:
        UsageError: ``transformers`` is not installed.
        DataError: there is no such model, or it is no DINOv2.
    """

    name = "dinov2"
    version = "1"

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        try:
            from transformers import Dinov2Model
            from transformers.utils import cached_file
        except ImportError as error:
            raise UsageError(f"detector dinov2 needs the transformers package: {install_command('dino')}") from error
        source = str(weights or "facebook/dinov2-large")
        self.device = torch.device(device)
        try:
            path = cached_file(source, "model.safetensors")
            model = Dinov2Model.from_pretrained(source, attn_implementation="sdpa")
        except Exception as error:  # the hub, the network and the file formats each have their own
            raise DataError(f"{source}: cannot be read as DINOv2 ({str(error).splitlines()[0][:200]})") from error
        self.network = model.eval().requires_grad_(False).to(self.device)
        self.sha256 = sha256_of_file(path)
        self._mean = torch.tensor(MEAN, device=self.device).reshape(3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).reshape(3, 1, 1)

    @property
    def dimension(self) -> int:
        """Width of the transformer: 1024 for ViT-L."""
        return int(self.network.config.hidden_size)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, H, W)`` of any size to float32 ``(N, D)``."""
        check_images(images, "detector dinov2", channels=3)
        x = images.to(self.device).float()
        x = functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        with torch.inference_mode():
            return self.network(pixel_values=(x / 255 - self._mean) / self._std).last_hidden_state[:, 0].float()
