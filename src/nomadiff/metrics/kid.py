"""Kernel inception distance (Binkowski et al. 2018): an unbiased squared maximum mean discrepancy.

The kernel is ``(x.y / D + 1)^3``. Unlike the Frechet distance its expectation does not depend on the number of images,
so it compares sets of a few hundred; it can come out slightly below 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.metrics.mmd import squared_mmd
from nomadiff.metrics.neighbours import as_points

__all__ = ["kid", "kid_left_out"]


class _Cubic:
    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        one = torch.ones(1, dtype=torch.float64)
        return torch.addmm(one, x / x.shape[1], y.T).pow_(3)

    def itself(self, x: Tensor) -> Tensor:
        return (x.square().sum(1) / x.shape[1] + 1).pow(3)


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
    value, left_out = squared_mmd(as_points(real, "real"), as_points(fake, "fake"), member, _Cubic(), "KID")
    return value, left_out.numpy()
