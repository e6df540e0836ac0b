"""The pixels themselves as features: no network, any image size."""

from __future__ import annotations

import torch
from torch import Tensor

from nomadiff.metrics.detectors.protocol import check_images

__all__ = ["PixelDetector"]


class PixelDetector:
    """Pixel values in [-1, 1] (``u8 / 127.5 - 1``), flattened. Distances are of brightness and position."""

    name = "pixels"
    version = "1"
    sha256 = ""
    dimension = None

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to float32 ``(N, C * H * W)``."""
        check_images(images, "detector pixels")
        return images.to(self.device).flatten(1).float() / 127.5 - 1
