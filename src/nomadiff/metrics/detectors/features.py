"""Run a detector over many images, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import Classifier, Detector
from nomadiff.progress import progress_bar

__all__ = ["accuracy", "batches_of", "classify", "extract_features"]


def batches_of(images: Tensor | np.ndarray | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Cut one tensor or array of images into batches; pass an iterable of batches through."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    yield from images.split(batch_size) if isinstance(images, Tensor) else images


def extract_features(
    detector: Detector, images: Tensor | np.ndarray | Iterable[Tensor], *, batch_size: int = 256
) -> Tensor:
    """Features of all images, with a progress bar.

    Args:
        detector: what computes the features, on its own device.
        images: uint8 ``(N, C, H, W)``, or an iterable of such batches: a sampler's output needs no file in between.
        batch_size: images to a batch, where ``images`` is one tensor.

    Returns:
        float32 ``(N, D)`` on the CPU.

    Raises:
        UsageError: there are no images, they are not what the detector reads, or a feature is not finite.
    """
    total = len(images) if isinstance(images, Tensor | np.ndarray) else None
    if total is None and isinstance(images, Sized):
        total = len(images) * batch_size
    parts = []
    with progress_bar(f"features ({detector.name})", total=total or 0) as advance:
        for batch in batches_of(images, batch_size):
            parts.append(detector(batch).float().cpu())
            advance(len(batch))
    features = torch.cat(parts) if parts else torch.empty(0)
    if not len(features):
        raise UsageError(f"detector {detector.name}: no images given")
    if not bool(torch.isfinite(features).all()):
        row = int((~torch.isfinite(features).all(1)).nonzero()[0, 0])
        raise UsageError(f"detector {detector.name}: the features of image {row} are not finite")
    return features


def classify(
    classifier: Classifier, images: Tensor | np.ndarray | Iterable[Tensor], *, batch_size: int = 256
) -> Tensor:
    """Classes of all images: int64 ``(N,)`` on the CPU. Arguments and errors as in :func:`extract_features`."""
    return classifier.classes_of_features(extract_features(classifier, images, batch_size=batch_size)).cpu()


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Share of images ``(N, C, H, W)`` whose class is their label, int64 ``(N,)``.

    Raises:
        UsageError: there is not one label to an image, or as in :func:`extract_features`.
    """
    if labels.shape != (len(images),):
        raise UsageError(f"accuracy: {len(images)} images and labels {tuple(labels.shape)} do not belong together")
    return float((classify(classifier, images, batch_size=batch_size) == labels.cpu()).double().mean())
