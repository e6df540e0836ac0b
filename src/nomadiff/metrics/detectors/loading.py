"""Detectors by name."""

from __future__ import annotations

from pathlib import Path

import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import Classifier, Detector
from nomadiff.seeding import own_randomness

__all__ = ["DETECTORS", "load_classifier", "load_detector"]

DETECTORS = ("digits", "pixels", "inception", "dinov2", "cifar10-resnet56")
SCRIPTS = (".pt", ".ts", ".torchscript")


@own_randomness(torch.device("cpu"))  # fresh weights are drawn and thrown away
def load_detector(
    spec: str | Detector, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Detector:
    """The detector that ``spec`` names.

    Args:
        spec: one of :data:`DETECTORS`, or the path of a TorchScript file, or a detector, which is returned as it is.
        weights: path or URL of the detector's weights; each that has weights has its own default, and checks the hash.
        device: where the detector computes.

    Raises:
        UsageError: no such detector, or weights for one that has none.
        DataError: the weights are absent, damaged or belong to another network.
        NomadiffError: the weights could not be downloaded.
    """
    if not isinstance(spec, str):
        return spec
    if spec == "digits":
        from nomadiff.metrics.detectors.digits import DigitsDetector

        return DigitsDetector(device, weights)
    if spec == "inception":
        from nomadiff.metrics.detectors.inception import Inception

        return Inception(device, weights)
    if spec == "dinov2":
        from nomadiff.metrics.detectors.dinov2 import DINOv2

        return DINOv2(device, weights)
    if spec == "cifar10-resnet56":
        from nomadiff.metrics.detectors.cifar10_resnet56 import Cifar10ResNet56

        return Cifar10ResNet56(device, weights)
    if spec == "pixels":
        from nomadiff.metrics.detectors.pixels import PixelDetector

        _no_weights(spec, weights)
        return PixelDetector(device)
    if spec.endswith(SCRIPTS):
        from nomadiff.metrics.detectors.torchscript import TorchScriptDetector

        _no_weights(spec, weights)
        return TorchScriptDetector(spec, device)
    raise UsageError(f"no detector {spec!r}: choose one of {', '.join(DETECTORS)}, or a TorchScript file (.pt)")


def load_classifier(
    spec: str | Detector, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """As :func:`load_detector`, for a detector that also classifies; a TorchScript file gives class scores.

    Raises:
        UsageError: no such detector, or it has no classes.
    """
    if isinstance(spec, str) and spec.endswith(SCRIPTS):
        from nomadiff.metrics.detectors.torchscript import TorchScriptClassifier

        _no_weights(spec, weights)
        return TorchScriptClassifier(spec, device)
    detector = load_detector(spec, weights=weights, device=device)
    if not isinstance(detector, Classifier):
        raise UsageError(f"detector {detector.name!r} has no classes: it cannot be used as classifier")
    return detector


def _no_weights(spec: str, weights: str | Path | None) -> None:
    if weights is not None:
        raise UsageError(f"detector {spec} takes no weights file")
