"""From a word on the command line to a detector."""

from __future__ import annotations

from pathlib import Path

import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import Classifier, Detector

__all__ = ["DETECTORS", "load_classifier", "load_detector"]

DETECTORS = ("digits", "pixels")


def load_detector(
    spec: str | Detector, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Detector:
    """The detector that ``spec`` names.

    Args:
        spec: one of :data:`DETECTORS`, or a detector, which is returned as it is.
        weights: weight file for a detector that has weights; each has its own default.
        device: where the detector computes.

    Raises:
        UsageError: no such detector.
        DataError: the weights are damaged or belong to another network.
    """
    if not isinstance(spec, str):
        return spec
    if spec == "digits":
        from nomadiff.metrics.detectors.digits import DigitsDetector

        return DigitsDetector(device, weights)
    if spec == "pixels":
        from nomadiff.metrics.detectors.pixels import PixelDetector

        return PixelDetector(device)
    raise UsageError(f"no detector {spec!r}: choose one of {', '.join(DETECTORS)}")


def load_classifier(
    spec: str | Detector, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """As :func:`load_detector`, for a detector that also classifies.

    Raises:
        UsageError: no such detector, or it has no classes.
    """
    detector = load_detector(spec, weights=weights, device=device)
    if not isinstance(detector, Classifier):
        raise UsageError(f"detector {detector.name!r} has no classes: it cannot be used as classifier")
    return detector
