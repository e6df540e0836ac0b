"""DINOv2 (Oquab et al. 2023) as a detector: FD-DINOv2 of EDM2 and of Stein et al. 2023, and its other sizes.

Needs the ``transformers`` package (the extra "dino"), or a TorchScript file of the network. Images are resized to
224x224 by antialiased bicubic interpolation in float32 and normalised with ImageNet's mean and spread; the feature is
the class token after the last layer norm (1024-d for ViT-L/14, which ``dinov2`` is).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nomadiff.metrics.detectors.vision import VisionDetector, from_transformers

__all__ = ["DINOv2", "DINOv2Base", "DINOv2Giant", "DINOv2Small"]


class DINOv2(VisionDetector):
    """Class-token features of the large vision transformer, ViT-L/14: 1024 dimensions."""

    name = "dinov2"
    default = "facebook/dinov2-large"
    size = 224

    def read(self, source: str) -> tuple[Callable[[Tensor], Tensor], int, str]:
        model, sha256 = from_transformers("Dinov2Model", source, "DINOv2", self.device)
        return lambda x: model(pixel_values=x).last_hidden_state[:, 0], int(model.config.hidden_size), sha256


class DINOv2Small(DINOv2):
    """ViT-S/14: 384 dimensions, for few images and CPUs."""

    name = "dinov2-small"
    default = "facebook/dinov2-small"


class DINOv2Base(DINOv2):
    """ViT-B/14: 768 dimensions."""

    name = "dinov2-base"
    default = "facebook/dinov2-base"


class DINOv2Giant(DINOv2):
    """ViT-g/14: 1536 dimensions."""

    name = "dinov2-giant"
    default = "facebook/dinov2-giant"
