"""What the distances are called: by the detector whose features it is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nomadiff.metrics.detectors.protocol import Detector

__all__ = ["FDR", "FDR_MEANS", "PREFIXES", "distance_in", "distance_name", "kernel_name", "what_it_misses"]

PREFIXES = ("fd_", "fid")
"""How the names of distances begin."""

FDR = "fdr"
FDR_MEANS = "The distance over that of fresh real data, both of equally many images: 1 is as good as real."

_MISSES = {
    "fd_pixels": "Sees layout and colours: blurred images can score better than fresh real ones.",
    "fd_wavelets": "Sees sharpness, noise, contrast, colours and variety; knows no objects, misses light compression.",
    "fd_cifar10_resnet56": "Knows ten kinds of objects: a light colour cast can score better than fresh real images.",
    "fd_digits": "Knows digits of 8x8 pixels, and nothing else.",
}


def what_it_misses(distance: str) -> str:
    """One or two sentences on what a distance sees and what it does not, as measured by ``benchmarks/detectors.py``;
    empty for one that was not measured."""
    return _MISSES.get(distance, "")


def distance_name(detector: Detector) -> str:
    """Field name of the Frechet distance on this detector: ``fd_<detector>``, and ``fid`` for the original alone."""
    from nomadiff.metrics.detectors import inception

    if detector.name == "inception" and detector.sha256 in (inception.WEIGHTS.sha256, inception.SCRIPT.sha256):
        return "fid"
    return "fd_" + detector.name.replace("-", "_")


def kernel_name(distance: str) -> str:
    """Field name of the kernel distance beside the Frechet distance of this name: ``kid`` or ``kd_<detector>``."""
    return "kid" if distance == "fid" else distance.replace("fd_", "kd_", 1)


def distance_in(fields: Iterable[str]) -> str:
    """The first field name that :func:`distance_name` can have given; empty where no distance was measured."""
    return next((name for name in fields if name.startswith(PREFIXES)), "")
