"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, eq. 6).

``|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)``. No matrix square root is taken: with any root ``R^T R = S`` the
last trace is the sum of the singular values of ``R1 R2^T``, which is real, exact for rank-deficient covariances, and
needs no regularisation. Where a set has fewer features than dimensions its centred features are such a root, and no
matrix of ``D x D`` is taken apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.intervals import GROUPS
from nomadiff.metrics.neighbours import check_finite
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = [
    "Statistics",
    "StatisticsAccumulator",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_left_out",
]

SLOW = 500  # rows of a matrix from which on the distances for an interval take seconds and show a bar
ROWS = 4096  # features taken into the sums at a time: beside them only as many in float64 are held


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of a set of features, in float64.

    Attributes:
        mean: ``(D,)``.
        scatter: ``(D, D)`` covariance, divided by ``count - 1``; or, where there are no more features than dimensions,
            ``(count, D)`` centred features over ``sqrt(count - 1)``, which are the covariance's exact root.
        count: how many features they come from; None if the file they were read from does not say.
        thin: True if ``scatter`` is the root.
    """

    mean: Tensor
    scatter: Tensor
    count: int | None = None
    thin: bool = False

    @classmethod
    def from_features(cls, features: Tensor | np.ndarray) -> Statistics:
        """Statistics of float features ``(N, D)``, N at least 2.

        Raises:
            UsageError: fewer than two features, or one that is not finite.
        """
        x = torch.as_tensor(features)
        if x.ndim != 2 or len(x) > x.shape[1]:
            return StatisticsAccumulator().update(x).finish()
        if len(x) < 2:
            raise UsageError(f"a covariance needs at least 2 features, got {len(x)}")
        check_finite(x, "features")
        x = x.double()
        mean = x.mean(0)
        return cls(mean, (x - mean) / (len(x) - 1) ** 0.5, len(x), thin=True)

    @cached_property
    def covariance(self) -> Tensor:
        """float64 ``(D, D)``, divided by ``count - 1``."""
        return self.scatter.T @ self.scatter if self.thin else self.scatter

    @cached_property
    def root(self) -> Tensor:
        """``R`` with ``R^T R = covariance``: float64 ``(rank, D)``.

        Cholesky's root where there is one. Else by eigenvalues, of which those below rounding error are dropped.
        """
        if self.thin:
            return self.scatter
        factor, failed = torch.linalg.cholesky_ex(self.scatter)
        diagonal = factor.diagonal()
        tiny = len(factor) * torch.finfo(torch.float64).eps
        if not int(failed) and float(diagonal.min()) ** 2 > tiny * float(diagonal.max()) ** 2:
            return factor.T
        values, vectors = torch.linalg.eigh(self.scatter)
        kept = values > values[-1] * tiny
        return vectors[:, kept].mul(values[kept].sqrt()).T.contiguous()

    @property
    def trace(self) -> float:
        """Trace of the covariance: the variance of the features in all directions together."""
        return float(self.scatter.square().sum() if self.thin else self.scatter.trace())


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
        check_finite(x, "features")
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS].cpu().double().numpy()
            mean = rows.mean(0)
            rows = rows - mean
            # numpy sees that both factors are the same matrix, and does half the work of torch
            self._add(len(rows), torch.from_numpy(mean), torch.from_numpy(rows.T @ rows))
        return self

    def merge(self, other: StatisticsAccumulator) -> StatisticsAccumulator:
        """Add what another accumulator has seen; gives itself.

        Raises:
            UsageError: the other one saw features of another dimension.
        """
        return self if other.count == 0 else self._add(other.count, other.mean, other.scatter)

    def gathered(self, processes: Processes) -> StatisticsAccumulator:
        """The sum of the accumulators of all processes, the same on each (every one must call this)."""
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
    if a.thin and b.thin:
        shared = float(torch.linalg.svdvals(a.scatter @ b.scatter.T).sum())
    else:  # the same singular values, squared: only one root is needed, and a thin set is its own
        one, other = (b, a) if b.thin else (a, b)
        shared = _sum_of_roots(one.root @ other.covariance @ one.root.T)
    return max(float((a.mean - b.mean).square().sum()) + a.trace + b.trace - 2 * shared, 0.0)


def frechet_left_out(reference: Statistics, features: Tensor | np.ndarray, member: Tensor) -> np.ndarray:
    """Frechet distance of ``features`` without each group in turn.

    Everything is kept by group in the coordinates of the reference's root ``(rank, D)``, so a distance decomposes a
    matrix of ``min(N, rank)`` and none of ``D``.

    Args:
        reference: what is compared with.
        features: float ``(N, D)``.
        member: group of each, int64 ``(N,)``, see :func:`~nomadiff.metrics.intervals.random_groups`.

    Returns:
        float64 ``(GROUPS,)``.

    Raises:
        UsageError: features of another dimension, or one that is not finite.
    """
    x = torch.as_tensor(features)
    if x.ndim != 2 or x.shape[1] != len(reference.mean):
        raise UsageError(f"features must be (N, {len(reference.mean)}), got {tuple(x.shape)}")
    check_finite(x, "features")
    centre = torch.stack([rows.double().sum(0) for rows in x.split(ROWS)]).sum(0) / len(x)
    groups = [(member == group).nonzero()[:, 0] for group in range(GROUPS)]
    counts = torch.tensor([len(indices) for indices in groups])
    sums, squares, turned = [], [], []
    for indices in groups:
        part = x[indices].double() - centre
        sums.append(part.sum(0))
        squares.append(part.square().sum())
        turned.append(part @ reference.root.T)
    left = len(x) - counts
    gaps = (sum(sums) - torch.stack(sums)) / left[:, None]  # of the mean without each group, from the centre
    squared = torch.stack(squares)
    traces = (squared.sum() - squared - left * gaps.square().sum(1)) / (left - 1)
    moved = (centre + gaps - reference.mean).square().sum(1)
    show = min(len(x), len(reference.root)) > SLOW
    with progress_bar("interval", total=GROUPS, unit="groups", show=show) as advance:
        shared = []
        for matrix in _left_out_covariances(turned):
            shared.append(_sum_of_roots(matrix))
            advance()
    distances = moved + traces + reference.trace - 2 * torch.tensor(shared, dtype=torch.float64)
    return distances.clamp(min=0).numpy()


def _left_out_covariances(parts: list[Tensor]) -> Iterator[Tensor]:
    """Covariance of all points but each group's, or its Gram matrix where that is smaller: the same eigenvalues.

    ``parts`` are the groups, float64 ``(n, D)`` each.
    """
    counts = [len(part) for part in parts]
    if sum(counts) <= parts[0].shape[1]:
        everything = torch.cat(parts)
        products = everything @ everything.T
        for group, start in enumerate(itertools.accumulate([0, *counts[:-1]])):
            rest = torch.cat([torch.arange(start), torch.arange(start + counts[group], len(everything))])
            some = products[rest][:, rest]
            some = some - some.mean(0)
            yield (some - some.mean(1, keepdim=True)) / (len(rest) - 1)
        return
    of_groups = [StatisticsAccumulator().update(part) for part in parts]
    before, after = StatisticsAccumulator(), [StatisticsAccumulator()]
    for part in reversed(of_groups[1:]):
        after.append(StatisticsAccumulator().merge(after[-1]).merge(part))
    for part in of_groups:  # everything before the group and everything after it
        yield StatisticsAccumulator().merge(before).merge(after.pop()).finish().covariance
        before.merge(part)


def _sum_of_roots(matrix: Tensor) -> float:
    """Trace of the square root of a symmetric matrix with no eigenvalue below 0 but by rounding."""
    return float(torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().sum())


def frechet_distance_from_features(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Frechet distance between two sets of float features ``(N, D)`` and ``(M, D)``.

    Exact also where a set has fewer features than dimensions: its centred features are then the root themselves.

    Raises:
        UsageError: fewer than two features in a set, one that is not finite, or different dimensions.
    """
    return frechet_distance(Statistics.from_features(a), Statistics.from_features(b))
