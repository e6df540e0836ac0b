"""How far a metric would move with other samples of the same generator: the delete-a-group jackknife.

A bootstrap draws some samples twice, and twins are what the neighbour metrics count: it would bias every one of them.
Leaving out one group at a time keeps the samples distinct and their number nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError

__all__ = ["jackknife"]


def jackknife(
    metrics: Callable[[Tensor], Mapping[str, float]],
    count: int,
    *,
    level: float = 0.95,
    groups: int = 20,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Half-open view of the sampling error of several metrics at once.

    Args:
        metrics: computes the metrics of the samples whose indices (int64) it is given.
        count: number of samples.
        level: probability that an interval shall cover the value at infinitely many samples drawn alike, between 0
            and 1. The reference is held fixed, and a bias that depends on the number of samples is not removed.
        groups: how many groups the samples are dealt into at random; the metrics are computed once without each.
        seed: of the dealing.

    Returns:
        For each metric the half width ``t * standard error`` below and above: ``(low, high)`` around its value.

    Raises:
        UsageError: a level outside (0, 1), or fewer samples than two to a group.
    """
    if not 0 < level < 1:
        raise UsageError(f"interval must lie between 0 and 1 (0.95 for 95 %), got {level}")
    if count < 2 * groups:
        raise UsageError(f"an interval needs at least {2 * groups} samples, got {count}")
    from scipy.stats import t

    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    member = torch.empty(count, dtype=torch.int64)
    member[order] = torch.arange(count) % groups
    whole = metrics(torch.arange(count))
    partial = [metrics(torch.nonzero(member != group)[:, 0]) for group in range(groups)]
    quantile = float(t.ppf((1 + level) / 2, groups - 1))
    result = {}
    for name, value in whole.items():
        left_out = np.array([row[name] for row in partial])
        error = np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean()).sum())
        result[name] = (value - quantile * float(error), value + quantile * float(error))
    return result
