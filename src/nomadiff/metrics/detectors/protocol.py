"""The interface of detectors: uint8 images in, features out, with a name, a version and the hash of its weights."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nomadiff.errors import UsageError

__all__ = ["Classifier", "Detector", "check_images"]


@runtime_checkable
class Detector(Protocol):
    """A fixed map from images to feature vectors, with a name and version that make figures comparable.

    Attributes:
        name: names the distance measured on its features: ``fd_<name>``. Only the verified Inception-v3 is "fid".
        version: changes whenever the same image would get other features (preprocessing included).
        sha256: SHA-256 of the weight file, 64 hexadecimal digits; empty for a detector without weights.
    """

    name: str
    version: str
    sha256: str

    @property
    def dimension(self) -> int | None:
        """Length D of a feature vector, or None when it follows from the image size."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Features of one batch: uint8 ``(N, C, H, W)`` to float32 ``(N, D)`` on the detector's device."""
        ...


@runtime_checkable
class Classifier(Detector, Protocol):
    """A detector that also says which class an image belongs to."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; as many as there are classes."""
        ...

    def classes(self, images: Tensor) -> Tensor:
        """Classes of one batch: uint8 ``(N, C, H, W)`` to int64 ``(N,)`` in ``[0, len(class_names))``."""
        ...

    def classes_of_features(self, features: Tensor) -> Tensor:
        """Classes from features computed before: float32 ``(N, D)`` to int64 ``(N,)``; saves the network's pass."""
        ...


def check_images(images: Tensor, what: str = "images", *, channels: int | None = None, size: int | None = None) -> None:
    """Check that ``images`` is a uint8 batch ``(N, C, H, W)``, if asked with these channels and this square size.

    Raises:
        UsageError: it is not; the message says what was given and what is read.
    """
    if not isinstance(images, Tensor):
        raise UsageError(f"{what}: expected a uint8 tensor (N, C, H, W), got {type(images).__name__}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        kind = str(images.dtype).removeprefix("torch.")
        raise UsageError(f"{what}: expected a uint8 tensor (N, C, H, W), got {kind} {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise UsageError(f"{what}: needs {channels}-channel images, got {images.shape[1]} channels")
    if size is not None and tuple(images.shape[2:]) != (size, size):
        raise UsageError(f"{what}: needs {size}x{size} images, got {images.shape[2]}x{images.shape[3]}")
