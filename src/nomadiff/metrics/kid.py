"""Kernel inception distance (Binkowski et al. 2018): an unbiased squared maximum mean discrepancy.

The kernel is ``(x.y / D + 1)^3``. Unlike the Frechet distance its expectation does not depend on the number of images,
so it compares sets of a few hundred; it can come out slightly below 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.neighbours import BLOCK, as_points

__all__ = ["kid"]


def kid(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> float:
    """Unbiased squared MMD of all features, in blocks.

    Other libraries average the same estimate over random subsets of 1,000: the same expectation, with more noise.

    Args:
        real: float features ``(N, D)``, at least 2.
        fake: float features ``(M, D)``, at least 2.

    Raises:
        UsageError: too few features, different dimensions, or a value that is not finite.
    """
    x, y = as_points(real, "real"), as_points(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"features of dimension {x.shape[1]} and {y.shape[1]} cannot be compared: two detectors?")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise UsageError(f"KID needs at least 2 images on either side, got {n} and {m}")
    within_x = (_kernel_sum(x, x) - _diagonal_sum(x)) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _diagonal_sum(y)) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum of the kernel over all pairs, in float64: the distance is what is left after the sums cancel."""
    total = 0.0
    for rows in x.split(BLOCK):
        left = rows.double() / x.shape[1]
        for columns in y.split(BLOCK):
            total += float(torch.addmm(torch.ones(1, dtype=torch.float64), left, columns.double().T).pow_(3).sum())
    return total


def _diagonal_sum(x: Tensor) -> float:
    return float((x.double().square().sum(1) / x.shape[1] + 1).pow(3).sum())
