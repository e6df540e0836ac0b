"""What an evaluation will cost, measured on the spot: the detector on a few images, and products of matrices.

The counts are those of the algorithms: pairs of points for neighbours and kernels, for each Frechet distance the
eigenvalues of a matrix as large as the smallest of samples, reference and dimensions, and pairs of images for SSIM and
LPIPS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.intervals import GROUPS
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.pairs import pair_similarity
from nomadiff.metrics.splits import SPLIT, fresh_count
from nomadiff.progress import duration_text

__all__ = ["evaluation_cost"]

_FEW = 16  # images the detector is timed on
_MORE = 128  # images that pairs are timed on: of few they take half as long each
_SIDE = 384  # of the matrices that are timed
_FIXED = 2.5
"""Seconds that no count explains: 1.7 to start Python and torch, 0.4 to read images, 0.4 to write tables and report.
Measured in CPU-seconds on one core of an EPYC (Zen 4) with 400 samples, 400 reference and 2,000 training images of
32x32x3, for which all of it took 3.6 with wavelets, 4.4 with pixels and 5.2 with --extra kid ssim."""


def evaluation_cost(
    detector: Detector,
    images: Tensor,
    counts: Sequence[int],
    reference: int | None,
    train: int,
    *,
    intervals: bool,
    kernels: int = 0,
    ssim: bool = False,
    lpips: LPIPS | None = None,
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
        ssim: whether SSIM of pairs is asked for.
        lpips: the LPIPS that is asked for, if it is.
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
    total |= dict.fromkeys(("distances", "neighbours", "pairs"), 0.0)
    more = images[:_MORE]
    a_pair = _seconds(lambda: pair_similarity(more, lpips=lpips)) / (len(more) // 2) if ssim or lpips else 0.0
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
        if a_pair:
            fresh = splits * fresh_count(reference or 0, count)  # for the floor
            total["pairs"] += (count + fresh) * (1.5 if train else 0.5) * a_pair
            total["neighbours"] += train * fresh * images[0].numel() * a_product
    total["start and report"] = _FIXED
    parts = ", ".join(f"{name} {_text(seconds)}" for name, seconds in total.items() if seconds >= 0.05)
    return f"about {_text(sum(total.values()))} on this machine{f' ({parts})' if parts else ''}"


def _seconds(work: Callable[[], object]) -> float:
    """Wall clock of the fastest of three runs, after one that warms up: other work on the machine slows some."""
    work()
    found = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def _text(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0.1):.1g} s" if seconds < 9.5 else f"{seconds:.2g} s"
    return duration_text(seconds)
