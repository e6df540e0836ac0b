"""Detectors by name."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.names import DETECTORS
from nomadiff.metrics.detectors.protocol import Classifier, Detector
from nomadiff.metrics.detectors.torchscript import SCRIPTS
from nomadiff.registry import Registry, meant
from nomadiff.seeding import own_randomness

__all__ = ["load_classifier", "load_detector"]


def _flaw(part: Any) -> str:
    if not isinstance(part, Detector):
        return "it must be callable and have name, version, sha256 and dimension"
    if not isinstance(part, type) and not re.fullmatch(r"[\w.-]+", str(part.name)):
        return f"its name {part.name!r} must be made of letters, digits and .-_"
    return ""


_OWN: Registry[Any] = Registry("detector", _flaw, {})


@own_randomness(torch.device("cpu"))  # fresh weights are drawn and thrown away
def load_detector(
    spec: str | Detector, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Detector:
    """The detector that ``spec`` names.

    Args:
        spec: one of :data:`~nomadiff.metrics.detectors.names.DETECTORS`, the path of a TorchScript file, or a detector
            of your own: itself, its class, or ``module:qualname`` of either. A class is called as ``Class(device)``, or
            ``Class(device, weights)``.
        weights: path or URL of the detector's weights; each that has weights has its own default, and checks the hash.
        device: where the detector computes.

    Raises:
        UsageError: no such detector, weights for one that has none, or its module was not imported.
        DataError: the weights are absent, damaged or belong to another network.
        NomadiffError: the weights could not be downloaded.
    """
    found: Any
    if isinstance(spec, str) and spec in DETECTORS:
        module, _, name = DETECTORS[spec].partition(":")
        found = getattr(import_module(f"nomadiff.metrics.detectors.{module}"), name)
    elif isinstance(spec, str) and spec.endswith(SCRIPTS):
        from nomadiff.metrics.detectors.torchscript import TorchScriptDetector

        _no_weights(spec, weights)
        return TorchScriptDetector(spec, device)
    elif isinstance(spec, str) and ":" not in spec:
        near = meant(spec, DETECTORS)
        known = ", ".join(DETECTORS)
        raise UsageError(f"no detector {spec!r}{near}: choose one of {known}, or a TorchScript file (.pt)")
    else:
        found = _OWN.find(spec)
    if isinstance(found, type):
        takes_weights = "weights" in signature(found).parameters
        if not takes_weights:
            _no_weights(str(spec), weights)
        found = found(device, weights) if takes_weights else found(device)
    return cast(Detector, _OWN.find(found))


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
