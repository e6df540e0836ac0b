"""How far a metric would move with other samples of the same generator: the delete-a-group jackknife.

A share of the samples, such as precision, has the exact interval instead: where it is 0 or 1, no group moves it.

The samples are dealt into twenty groups at random, and every metric is computed once without each group. A bootstrap
would draw some samples twice, and duplicates bias every neighbour metric. Leaving
out a group keeps the samples distinct and their number nearly the same.

An interval covers the value that infinitely many sets of this size would have on average. The reference is held fixed,
and a bias that depends on the number of samples (the Frechet distance has one) is not removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.metrics.distance_names import PREFIXES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GROUPS",
    "groups_of",
    "interval_fields",
    "jackknife_interval",
    "means_left_out",
    "metric_interval",
    "random_groups",
    "share_interval",
    "validate_count",
    "validate_level",
]

GROUPS = 20
_RANGES = dict.fromkeys(("precision", "recall", "coverage", "replication", "composition_tv"), (0.0, 1.0))
_RANGES |= dict.fromkeys(("density", "frechet_distance", "bures_wasserstein", "sliced_wasserstein"), (0.0, math.inf))
_OF_SAMPLES = ("precision", "replication")  # the share of the samples of which something is true


def validate_count(count: int) -> None:
    """Raise UsageError if ``count`` samples are too few for an interval: less than two to a group."""
    if count < 2 * GROUPS:
        raise UsageError(f"an interval needs at least {2 * GROUPS} samples, got {count}")


def random_groups(count: int, seed: int = 0) -> Tensor:
    """Deal ``count`` samples into :data:`GROUPS` equal groups at random: int64 ``(count,)``.

    Raises:
        UsageError: fewer than two samples to a group.
    """
    validate_count(count)
    import torch

    member = torch.empty(count, dtype=torch.int64)
    member[torch.from_numpy(np.random.default_rng(seed).permutation(count))] = torch.arange(count) % GROUPS
    return member


def groups_of(count: int, subjects: Tensor | None, groups: int = GROUPS, seed: int = 1) -> Tensor | None:
    """Deal a reference into groups at random, to leave each out in turn: int64 ``(count,)``; whole subjects, if any.

    Args:
        count: number of its images.
        subjects: whose each is, int64 ``(count,)``, or None.
        groups: how many.
        seed: of the order.

    Returns:
        The group of each image, or None where there are fewer than two images (or one subject) to a group.
    """
    import torch

    random = np.random.default_rng(seed)
    if subjects is None:
        return None if count < 2 * groups else torch.from_numpy(random.permutation(count)) % groups
    names, number = torch.unique(subjects, return_inverse=True)
    return None if len(names) < groups else (torch.from_numpy(random.permutation(len(names))) % groups)[number]


def means_left_out(values: Tensor, member: Tensor) -> np.ndarray:
    """Mean of ``values`` ``(N,)`` without each group in turn: float64 ``(GROUPS,)``."""
    import torch

    values = values.double()
    sums = torch.zeros(GROUPS, dtype=torch.float64).index_add_(0, member, values)
    counts = torch.bincount(member, minlength=GROUPS)
    return ((values.sum() - sums) / (len(values) - counts)).numpy()


def validate_level(level: float) -> None:
    """Raise UsageError unless ``level`` lies between 0 and 1."""
    if not 0 < level < 1:
        raise UsageError(f"interval must lie between 0 and 1 (0.95 for 95 %), got {level}")


def jackknife_interval(
    value: float, left_out: Sequence[float] | np.ndarray, level: float, *more: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Confidence interval around ``value`` from the metric's values without each group.

    Args:
        value: the metric of all samples.
        left_out: the metric without each group.
        level: between 0 and 1, 0.95 for instance.
        *more: likewise without each group of something else that is drawn by chance, the reference say: the variances
            add up.

    Returns:
        ``value`` minus and plus ``t * standard error``, t of Student's distribution with ``groups - 1`` degrees of
        freedom (of several parts, Welch's and Satterthwaite's).

    Raises:
        UsageError: a level outside (0, 1).
    """
    validate_level(level)
    from scipy.special import stdtrit

    parts = [np.asarray(values, np.float64) for values in (left_out, *more)]
    variances = [(len(values) - 1) * float(np.square(values - values.mean()).mean()) for values in parts]
    total = sum(variances)
    if total == 0:
        return value, value
    freedom = total**2 / sum(each**2 / (len(values) - 1) for each, values in zip(variances, parts))
    width = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)
    return value - width, value + width


def share_interval(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact confidence interval (Clopper and Pearson) of a share found among ``count`` samples.

    It has a width also where the share is 0 or 1: nothing found among 1,000 samples may be 0.37 % of all.

    Args:
        share: in [0, 1].
        count: samples, at least 1.
        level: between 0 and 1.

    Raises:
        UsageError: no samples, or a level or share out of range.
    """
    if count < 1 or not 0 < level < 1 or not 0 <= share <= 1:
        raise UsageError(f"no interval for a share of {share:g} among {count} samples at level {level:g}")
    from scipy.stats import binomtest

    ends = binomtest(round(share * count), count).proportion_ci(level)
    return float(ends.low), float(ends.high)


def metric_interval(
    name: str, value: float, left_out: Sequence[float] | np.ndarray, level: float, count: int
) -> tuple[float, float]:
    """Interval of a metric of ``count`` samples, within its range: :func:`share_interval` of a share of the samples,
    :func:`jackknife_interval` of all else."""
    if name in _OF_SAMPLES:
        return share_interval(value, count, level)
    low, high = jackknife_interval(value, left_out, level)
    least, most = _RANGES.get(name, (0.0 if name.startswith(PREFIXES) else -math.inf, math.inf))
    return max(low, least), min(high, most)


def interval_fields(
    row: Mapping[str, float], left_out: Mapping[str, np.ndarray], level: float | None, count: int
) -> dict[str, float]:
    """``<metric>_low`` and ``<metric>_high`` of what has values without each group; nothing without a level."""
    ends: dict[str, float] = {}
    if level is None:
        return ends
    for name, without in left_out.items():
        ends[f"{name}_low"], ends[f"{name}_high"] = metric_interval(name, row[name], without, level, count)
    return ends
