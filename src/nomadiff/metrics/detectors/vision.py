"""Networks of photographs as detectors: resized, normalised, and one vector an image; from transformers or TorchScript.

A weights file that ends like TorchScript (``.pt``, ``.ts``, ``.torchscript``) is the network itself: it gets what the
original gets, normalised float32 ``(N, 3, S, S)``, and gives features ``(N, D)``. It is checked as every TorchScript
file is (:mod:`~nomadiff.metrics.detectors.torchscript`). Anything else is a folder or a Hugging Face id of a model that
``transformers`` reads; its weights are hashed, so that a figure names them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import sha256_of_file
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.detectors.torchscript import SCRIPTS, load_script
from nomadiff.safe_pickle import printable

__all__ = ["IMAGENET", "VisionDetector", "from_transformers"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and spread of ImageNet's channels in [0, 1], which most networks are trained with."""


class VisionDetector:
    """A network behind its preprocessing: subclasses say which, and how it is read.

    Images are resized to ``size`` x ``size`` by antialiased interpolation in float32, and normalised.

    Args:
        device: where it computes.
        weights: TorchScript file, or folder or Hugging Face id of a model; by default ``default``.

    Raises:
        UsageError: ``transformers`` is not installed and needed, or there is no default.
        DataError: there is no such model, or it is another.
    """

    name: str
    version = "1"
    default: str
    size: int
    mode = "bicubic"
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    unit_length = False  # whether features are divided by their length

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        self.device = torch.device(device)
        self._dimension: int | None = None
        source = str(weights or self.default)
        if source.endswith(SCRIPTS):
            path = Path(source)
            if not path.is_file():
                raise DataError(f"{source}: no such TorchScript file for detector {self.name}")
            script, _ = load_script(path, self.device)
            self.network: Callable[[Tensor], Any] = script
            self.sha256 = sha256_of_file(path)
        else:
            self.network, self._dimension, self.sha256 = self.read(source)
        mean, std = (torch.tensor(each, device=self.device).reshape(3, 1, 1) for each in self.normalisation)
        self._mean, self._std = mean, std

    def read(self, source: str) -> tuple[Callable[[Tensor], Tensor], int, str]:
        """The network of a folder or id, the length of its features, and the SHA-256 of its weights."""
        raise NotImplementedError

    @property
    def dimension(self) -> int | None:
        """Length of a feature vector; None for TorchScript, which does not say."""
        return self._dimension

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, H, W)`` of any size to float32 ``(N, D)``.

        Raises:
            UsageError: other images, or a TorchScript file that fails on them or gives no features.
        """
        check_images(images, f"detector {self.name}", channels=3)
        x = images.to(self.device).float()
        x = functional.interpolate(x, (self.size, self.size), mode=self.mode, antialias=True)
        with torch.inference_mode():
            try:
                features = self.network((x / 255 - self._mean) / self._std)
            except Exception as error:  # a script may raise what it likes; the last line says what went wrong
                reason = printable((str(error).strip().splitlines() or [type(error).__name__])[-1], 200)
                raise UsageError(f"detector {self.name} fails on images {tuple(images.shape)}: {reason}") from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UsageError(f"detector {self.name} must give ({len(images)}, D) features, its network gives {got}")
        features = features.float()
        return functional.normalize(features, dim=1) if self.unit_length else features


def from_transformers(kind: str, source: str, what: str, device: torch.device) -> tuple[Any, str]:
    """A network that ``transformers`` reads, for inference, and the SHA-256 of its weights.

    Args:
        kind: class of the model, such as ``Dinov2Model``.
        source: folder or Hugging Face id.
        what: name for messages, such as DINOv2.
        device: where it computes.

    Raises:
        UsageError: ``transformers`` is not installed.
        DataError: there is no such model, or it is another.
    """
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError as error:
        raise UsageError(f"{what} needs the transformers package: {install_command('dino')}") from error
    try:
        try:
            path = cached_file(source, "model.safetensors")
        except OSError:  # older models have tensors in torch's format, of which transformers reads nothing else
            path = cached_file(source, "pytorch_model.bin")
        model = getattr(transformers, kind).from_pretrained(source, attn_implementation="sdpa")
    except Exception as error:  # the hub, the network and the file formats each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source}: cannot be read as {what} ({printable(reason, 200)})") from error
    if getattr(model.config, "model_type", "") not in _TYPES[kind]:
        raise DataError(f"{source}: cannot be read as {what} (it is a {model.config.model_type})")
    return model.eval().requires_grad_(False).to(device), sha256_of_file(path)


_TYPES = {"Dinov2Model": ("dinov2",), "CLIPVisionModelWithProjection": ("clip", "clip_vision_model")}
