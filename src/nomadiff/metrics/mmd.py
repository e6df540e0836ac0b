"""Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) between two sets of features, for any kernel.

Its expectation does not depend on the number of features; it can come out slightly below 0.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.neighbours import BLOCK, LONG
from nomadiff.progress import progress_bar

__all__ = ["Kernel", "squared_mmd"]


class Kernel(Protocol):
    """A kernel of features, in float64."""

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Of every pair of rows: ``(N, D)`` and ``(M, D)`` to ``(N, M)``."""
        ...

    def itself(self, x: Tensor) -> Tensor:
        """Of every row with itself: ``(N, D)`` to ``(N,)``."""
        ...


def squared_mmd(x: Tensor, y: Tensor, member: Tensor, kernel: Kernel, what: str) -> tuple[float, Tensor]:
    """The estimate, and the same without each group of ``y`` in turn, in one pass over the pairs, in blocks.

    Args:
        x, y: float features ``(N, D)`` and ``(M, D)``, at least 2 each.
        member: group of each of ``y``, int64 ``(M,)``, see :func:`~nomadiff.metrics.intervals.random_groups`.
        kernel: which one.
        what: its name in messages.

    Returns:
        The value, and float64 ``(groups,)``.

    Raises:
        UsageError: too few features, or different dimensions.
    """
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"features of dimension {x.shape[1]} and {y.shape[1]} cannot be compared: two detectors?")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise UsageError(f"{what} needs at least 2 images on either side, got {n} and {m}")
    everything = torch.zeros(n, dtype=torch.int64)
    within_x = (float(_kernel_sums(kernel, x, everything)) - float(kernel.itself(x.double()).sum())) / (n * (n - 1))
    between = _kernel_sums(kernel, x, everything, (y, member))[0]
    within = _kernel_sums(kernel, y, member)
    diagonal = torch.zeros(len(between), dtype=torch.float64).index_add_(0, member, kernel.itself(y.double()))
    count = torch.bincount(member, minlength=len(between))

    def value(of_between: Tensor, of_within: Tensor, left: Tensor) -> Tensor:
        return within_x + of_within / (left * (left - 1)) - 2 * of_between / (n * left)

    # what a group takes with it: all its pairs, both ways round, but pairs within the group once
    taken = within.sum(0) + within.sum(1) - within.diagonal() - diagonal
    rest = within.sum() - diagonal.sum()
    left_out = value(between.sum() - between, rest - taken, m - count)
    return float(value(between.sum(), rest, torch.tensor(m))), left_out


def _kernel_sums(kernel: Kernel, x: Tensor, group_x: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Sums of the kernel over all pairs, by groups, in float64: the distance is what is left after the sums cancel.

    Without ``other`` points and groups, the pairs are those of ``x`` with itself, and each is computed once.
    """
    itself = other is None
    y, group_y = other or (x, group_x)
    total = torch.zeros(int(group_x.max()) + 1, int(group_y.max()) + 1, dtype=torch.float64)
    with progress_bar("kernel distance", total=len(x), unit="points", show=len(x) * len(y) > LONG) as advance:
        for start, rows in enumerate(x.split(BLOCK)):
            of_rows = group_x.split(BLOCK)[start]
            left = rows.double()
            first = start if itself else 0
            for number, columns in enumerate(y.split(BLOCK)[first:], first):
                values = kernel.pairs(left, columns.double())
                by_row = torch.zeros(len(total), len(columns), dtype=torch.float64).index_add_(0, of_rows, values)
                part = torch.zeros_like(total).index_add_(1, group_y.split(BLOCK)[number], by_row)
                total += part
                if itself and number != start:
                    total += part.T
            advance(len(rows))
    return total
