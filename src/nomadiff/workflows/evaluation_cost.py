"""What an evaluation will cost, measured on the spot: the detector on a few images, and products of matrices.

The counts are those of the algorithms: pairs of points for neighbours and kernels, and for each Frechet distance the
eigenvalues of a matrix as large as the smallest of samples, reference and dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from nomadiff.metrics.detectors import Detector
from nomadiff.metrics.intervals import GROUPS
from nomadiff.metrics.splits import SPLIT

__all__ = ["evaluation_cost"]

_FEW = 16  # images the detector is timed on
_SIDE = 384  # of the matrices that are timed


def evaluation_cost(
    detector: Detector,
    images: Tensor,
    counts: Sequence[int],
    reference: int | None,
    train: int,
    *,
    intervals: bool,
    kernels: int = 0,
    others: Sequence[Detector] = (),
) -> str:
    """The time it takes, in words: ``about 12 s on this machine: detector 9 s, distances 2 s, neighbours 1 s``.

    Args:
        detector: the feature space.
        images: uint8 ``(N, C, H, W)``, some of what it will see.
        counts: number of images of every set of samples.
        reference: number of reference images; None for statistics.
        train: number of training images.
        intervals: whether every metric has one.
        kernels: how many kernel distances are asked for.
        others: further detectors that see all images, of classes or copies.
    """
    few = images[:_FEW]
    features = detector(few)
    dimension = features.shape[1]
    a_pass = sum(_seconds(partial(one, few)) for one in (detector, *others)) / len(few)
    square = torch.randn(_SIDE, _SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a_product = _seconds(lambda: square @ square) / _SIDE**3
    symmetric = square + square.T
    an_eigenvalue = _seconds(lambda: torch.linalg.eigvalsh(symmetric)) / _SIDE**3
    real = dimension if reference is None else reference
    seen = sum(counts) + (reference or 0) + (train if others else 0)
    total = {"detector": a_pass * seen}
    total |= dict.fromkeys(("distances", "neighbours"), 0.0)
    splits = 0 if reference is None else max(1, min(10, SPLIT // reference))
    for count in counts:
        matrix = min(count, real, dimension)
        # each set of features is multiplied with the other's, or with itself where there are more than dimensions
        products = count * dimension * matrix + real * dimension * min(real, dimension)
        decompositions = 1 + intervals * GROUPS + 2 * splits
        total["distances"] += (1 + intervals + splits) * products * a_product
        total["distances"] += decompositions * matrix**3 * an_eigenvalue
        if reference is not None:
            pairs = count * count + reference * reference + count * reference
            total["neighbours"] += (pairs + splits * reference * reference) * dimension * a_product
            total["distances"] += kernels * pairs * dimension * a_product
            total["neighbours"] += train * (count + reference) * images[0].numel() * a_product
    parts = ", ".join(f"{name} {_text(seconds)}" for name, seconds in total.items() if seconds >= 0.05)
    return f"about {_text(sum(total.values()))} on this machine{f' ({parts})' if parts else ''}"


def _seconds(work: Callable[[], object]) -> float:
    """Wall clock of the second of two runs; the first warms up."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _text(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0.1):.1g} s" if seconds < 9.5 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
