"""Which samples are copies: each beside its nearest training image, the most suspicious first.

How near a sample is to a training image says little by itself: whatever has few details is near to everything. So the
list is sorted by the *distance ratio*, the distance to the nearest training image over that to the second nearest
(Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize"): a copy is far nearer to one
training image than to any other. They call a sample memorised where the ratio is below 1/3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.replication import NEAR, distinct

__all__ = ["NearestTraining", "nearest_training"]


@dataclass(frozen=True)
class NearestTraining:
    """The training image nearest to each sample.

    Attributes:
        index: of the training image, int64 ``(N,)``; the first of several equal ones.
        distance: to it, float64 ``(N,)``: Euclidean, of pixels in [0, 1] or of features.
        ratio: of that to the distance to the second nearest of the distinct training images, float64 ``(N,)`` in
            [0, 1]; 1 where there is no second one.
    """

    index: Tensor
    distance: Tensor
    ratio: Tensor

    @property
    def order(self) -> Tensor:
        """The samples, the most suspicious first, int64 ``(N,)``: by ratio, and by distance where that is equal."""
        order = self.distance.argsort(stable=True)
        return order[self.ratio[order].argsort(stable=True)]

    @property
    def memorised(self) -> float:
        """Share of the samples whose ratio is below 1/3."""
        return float((self.ratio < NEAR).double().mean())

    def rows(self, first: int | None = None, threshold: float | None = None) -> list[dict[str, Any]]:
        """The list, one row a sample: ``rank``, ``sample``, ``train`` (indices), ``distance``, ``ratio``.

        Args:
            first: how many; all by default.
            threshold: distance below which a sample replicates; then there is a field ``replicates``.
        """
        rows = []
        for rank, sample in enumerate(self.order[:first].tolist(), 1):
            distance = float(self.distance[sample])
            row = {"rank": rank, "sample": sample, "train": int(self.index[sample]), "distance": distance}
            row["ratio"] = float(self.ratio[sample])
            rows.append(row if threshold is None else {**row, "replicates": distance <= threshold})
        return rows


def nearest_training(samples: Tensor, train: Tensor, known: Tensor | None = None) -> NearestTraining:
    """Find the nearest training image of every sample, and how much nearer it is than the second.

    Args:
        samples: uint8 images ``(N, C, H, W)``, or features ``(N, D)``.
        train: what the generator was trained on, of the same kind.
        known: indices of the distinct ones of ``train``, where they are known from before: a training image that is
            there twice is not its own second nearest.

    Raises:
        UsageError: different sizes, or a value that is not finite.
    """
    known = distinct(train) if known is None else known
    index, distance = nearest_neighbours(samples, train, min(2, len(known)), only=known)
    nearest = distance[:, 0]
    ratio = torch.ones_like(nearest)
    if distance.shape[1] == 2:  # of features both may be 0: then it is one of the two
        ratio = torch.where(nearest == 0, 0.0, nearest / distance[:, 1])
    return NearestTraining(index[:, 0], nearest, ratio)
