"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, eq. 6).

``|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)``. No matrix square root is taken: with any root ``R^T R = S`` the
last trace is the sum of the singular values of ``R1 R2^T``, which is real, exact for rank-deficient covariances, and
needs no regularisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.intervals import GROUPS
from nomadiff.processes import Processes

__all__ = [
    "Statistics",
    "StatisticsAccumulator",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_left_out",
]


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of features, in float64.

    Attributes:
        mean: ``(D,)``.
        covariance: ``(D, D)``, divided by ``count - 1``.
        count: how many features they come from; None if the file they were read from does not say.
        deviations: ``(count, D)``, the centred features over ``sqrt(count - 1)``, kept when there are fewer of them
            than dimensions: they are the exact root of a covariance that has no full rank.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    deviations: Tensor | None = None

    @classmethod
    def from_features(cls, features: Tensor | np.ndarray) -> Statistics:
        """Statistics of float features ``(N, D)``, N at least 2.

        Raises:
            UsageError: fewer than two features, or one that is not finite.
        """
        accumulator = StatisticsAccumulator().update(features)
        statistics = accumulator.finish()
        x = torch.as_tensor(features)
        if len(x) > x.shape[1]:
            return statistics
        deviations = (x.double() - statistics.mean) / (len(x) - 1) ** 0.5
        return cls(statistics.mean, statistics.covariance, statistics.count, deviations)

    @cached_property
    def root(self) -> Tensor:
        """``R`` with ``R^T R = covariance``: float64 ``(rank, D)``. Eigenvalues below rounding error are dropped."""
        if self.deviations is not None:
            return self.deviations
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        return vectors[:, kept].mul(values[kept].sqrt()).T.contiguous()


class StatisticsAccumulator:
    """Mean and covariance in one pass over batches, in float64, without keeping the features.

    Batches are merged by the pairwise update of Chan, Golub & LeVeque (1983), which loses no digits when the mean is
    large against the spread. Accumulators of several processes merge into the same result.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features: Tensor | np.ndarray) -> StatisticsAccumulator:
        """Add a batch of float features ``(N, D)``; gives itself.

        Raises:
            UsageError: the batch is not ``(N, D)``, has another D than before, or is not finite.
        """
        x = torch.as_tensor(features)
        if x.ndim != 2:
            raise UsageError(f"features must be (N, D), got {tuple(x.shape)}")
        x = x.double()
        if not bool(torch.isfinite(x).all()):
            row = int((~torch.isfinite(x).all(1)).nonzero()[0, 0])
            raise UsageError(f"feature {self.count + row} is not finite (NaN or infinity)")
        if len(x) == 0:
            return self
        mean = x.mean(0)
        x = x - mean
        return self._add(len(x), mean, x.T @ x)

    def merge(self, other: StatisticsAccumulator) -> StatisticsAccumulator:
        """Add what another accumulator has seen; gives itself.

        Raises:
            UsageError: the other one saw features of another dimension.
        """
        return self if other.count == 0 else self._add(other.count, other.mean, other.scatter)

    def gathered(self, processes: Processes) -> StatisticsAccumulator:
        """What the accumulators of all processes have seen together, the same on each (every one must call this)."""
        # NCCL moves what lies on a GPU only
        counts = processes.gather(torch.tensor([self.count], device=processes.device)).tolist()
        means = processes.gather(self.mean[None].to(processes.device)).cpu()
        scatters = processes.gather(self.scatter[None].to(processes.device)).cpu()
        whole = StatisticsAccumulator()
        for count, mean, scatter in zip(counts, means, scatters):
            whole._add(count, mean, scatter)
        return whole

    def finish(self) -> Statistics:
        """The statistics so far.

        Raises:
            UsageError: fewer than two features were seen.
        """
        if self.count < 2:
            raise UsageError(f"a covariance needs at least 2 features, got {self.count}")
        return Statistics(self.mean, self.scatter / (self.count - 1), self.count)

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> StatisticsAccumulator:
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return self
        if len(mean) != len(self.mean):
            raise UsageError(f"features of dimension {len(mean)} cannot be added to features of {len(self.mean)}")
        total = self.count + count
        gap = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(gap, gap, alpha=self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total
        return self


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Frechet distance between the Gaussians of ``a`` and ``b`` (Heusel et al. 2017, eq. 6). Never negative.

    Symmetric; but the root of ``a`` is kept, so where one set is compared with many, give it first.

    Raises:
        UsageError: the two have different dimensions.
    """
    if len(a.mean) != len(b.mean):
        raise UsageError(f"features of dimension {len(a.mean)} and {len(b.mean)} cannot be compared: two detectors?")
    if a.deviations is None and b.deviations is None:  # the singular values of R1 R2^T, squared: one root less
        shared = torch.linalg.eigvalsh(a.root @ b.covariance @ a.root.T).clamp(min=0).sqrt().sum()
    else:
        shared = torch.linalg.svdvals(a.root @ b.root.T).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(float(distance), 0.0)


def frechet_left_out(reference: Statistics, features: Tensor | np.ndarray, member: Tensor) -> np.ndarray:
    """Frechet distance of ``features`` without each group in turn, from sums kept by group.

    Args:
        reference: what is compared with.
        features: float ``(N, D)``.
        member: group of each, int64 ``(N,)``, see :func:`~nomadiff.metrics.intervals.deal`.

    Returns:
        float64 ``(GROUPS,)``.
    """
    x = torch.as_tensor(features)
    parts = [StatisticsAccumulator().update(x[member == group]) for group in range(GROUPS)]
    before, after = StatisticsAccumulator(), [StatisticsAccumulator()]
    for part in reversed(parts[1:]):
        after.append(StatisticsAccumulator().merge(after[-1]).merge(part))
    distances = []
    for part in parts:  # everything before the group and everything after it
        rest = StatisticsAccumulator().merge(before).merge(after.pop())
        distances.append(frechet_distance(reference, rest.finish()))
        before.merge(part)
    return np.array(distances)


def frechet_distance_from_features(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Frechet distance between two sets of float features ``(N, D)`` and ``(M, D)``.

    Exact also where a set has fewer features than dimensions: its centred features are then the root themselves.

    Raises:
        UsageError: fewer than two features in a set, one that is not finite, or different dimensions.
    """
    return frechet_distance(Statistics.from_features(a), Statistics.from_features(b))
