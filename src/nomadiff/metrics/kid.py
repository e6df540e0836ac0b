"""Kernel inception distance (Binkowski et al. 2018): an unbiased squared maximum mean discrepancy.

The kernel is ``(x.y / D + 1)^3``. Unlike the Frechet distance its expectation does not depend on the number of images,
so it compares sets of a few hundred; it can come out slightly below 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.neighbours import BLOCK, LONG, as_points
from nomadiff.progress import progress_bar

__all__ = ["kid", "kid_left_out"]


def kid(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> float:
    """Unbiased squared MMD of all features, in blocks.

    Other libraries average the same estimate over random subsets of 1,000: the same expectation, with more noise.

    Args:
        real: float features ``(N, D)``, at least 2.
        fake: float features ``(M, D)``, at least 2.

    Raises:
        UsageError: too few features, different dimensions, or a value that is not finite.
    """
    return kid_left_out(real, fake, torch.zeros(len(fake), dtype=torch.int64))[0]


def kid_left_out(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, member: Tensor) -> tuple[float, np.ndarray]:
    """As :func:`kid`, and the same without each group of ``fake`` in turn, in one pass.

    Args:
        real, fake: as for :func:`kid`.
        member: group of each generated feature, int64 ``(M,)``, see :func:`~nomadiff.metrics.intervals.random_groups`.

    Returns:
        The value, and float64 ``(groups,)``.
    """
    x, y = as_points(real, "real"), as_points(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"features of dimension {x.shape[1]} and {y.shape[1]} cannot be compared: two detectors?")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise UsageError(f"KID needs at least 2 images on either side, got {n} and {m}")
    everything = torch.zeros(n, dtype=torch.int64)
    within_x = (float(_kernel_sums(x, everything)) - float(_diagonal(x).sum())) / (n * (n - 1))
    between = _kernel_sums(x, everything, (y, member))[0]
    within = _kernel_sums(y, member)
    diagonal = torch.zeros(len(between), dtype=torch.float64).index_add_(0, member, _diagonal(y))
    count = torch.bincount(member, minlength=len(between))

    def value(of_between: Tensor, of_within: Tensor, left: Tensor) -> Tensor:
        return within_x + of_within / (left * (left - 1)) - 2 * of_between / (n * left)

    # what a group takes with it: all its pairs, both ways round, but pairs within the group once
    taken = within.sum(0) + within.sum(1) - within.diagonal() - diagonal
    rest = within.sum() - diagonal.sum()
    left_out = value(between.sum() - between, rest - taken, m - count)
    return float(value(between.sum(), rest, torch.tensor(m))), left_out.numpy()


def _kernel_sums(x: Tensor, group_x: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Sums of the kernel over all pairs, by groups, in float64: the distance is what is left after the sums cancel.

    Without ``other`` points and groups, the pairs are those of ``x`` with itself, and each is computed once.
    """
    itself = other is None
    y, group_y = other or (x, group_x)
    total = torch.zeros(int(group_x.max()) + 1, int(group_y.max()) + 1, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    with progress_bar("kernel distance", total=len(x), unit="points", show=len(x) * len(y) > LONG) as advance:
        for start, rows in enumerate(x.split(BLOCK)):
            of_rows = group_x.split(BLOCK)[start]
            left = rows.double() / x.shape[1]
            first = start if itself else 0
            for number, columns in enumerate(y.split(BLOCK)[first:], first):
                kernel = torch.addmm(one, left, columns.double().T).pow_(3)
                by_row = torch.zeros(len(total), len(columns), dtype=torch.float64).index_add_(0, of_rows, kernel)
                part = torch.zeros_like(total).index_add_(1, group_y.split(BLOCK)[number], by_row)
                total += part
                if itself and number != start:
                    total += part.T
            advance(len(rows))
    return total


def _diagonal(x: Tensor) -> Tensor:
    return (x.double().square().sum(1) / x.shape[1] + 1).pow(3)
