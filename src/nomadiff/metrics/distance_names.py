"""What the distances are called: by the detector whose features it is of."""

from __future__ import annotations

from collections.abc import Iterable

from nomadiff.metrics.detectors import Detector, inception

__all__ = ["PREFIXES", "distance_in", "distance_name", "kernel_name"]

PREFIXES = ("fd_", "fid")
"""How the names of distances begin."""


def distance_name(detector: Detector) -> str:
    """Field name of the Frechet distance on this detector: ``fd_<detector>``, and ``fid`` for the original alone."""
    if detector.name == "inception" and detector.sha256 in (inception.WEIGHTS.sha256, inception.SCRIPT.sha256):
        return "fid"
    return "fd_" + detector.name.replace("-", "_")


def kernel_name(distance: str) -> str:
    """Field name of the kernel distance beside the Frechet distance of this name: ``kid`` or ``kd_<detector>``."""
    return "kid" if distance == "fid" else distance.replace("fd_", "kd_", 1)


def distance_in(fields: Iterable[str]) -> str:
    """The first field name that :func:`distance_name` can have given; empty where no distance was measured."""
    return next((name for name in fields if name.startswith(PREFIXES)), "")
