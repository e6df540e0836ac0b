"""Replication: does a generator copy its training images?"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.mapped import chunks
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.neighbours import nearest_neighbours

__all__ = ["NEAR", "Calibration", "calibrate", "distinct", "nearest_neighbours", "replication", "shared"]

NEAR = 1 / 3
"""Held-out data this much nearer to its nearest training image than to the second is a copy of it, saved anew. Of fresh
CIFAR-10 and EuroSAT images 0.2 % come as near, of copies saved as JPEG (quality 75) 99 % and 77 %."""
CHANCE = 1e-4  # share of fresh vectors that may be taken for copies: in few dimensions some come near by chance


@dataclass(frozen=True)
class Calibration:
    """How near held-out real data comes to a training set, without what is in both.

    Attributes:
        threshold: the distance that only ``quantile`` of the fresh held-out data stay below; None if that cannot be
            known, because too little of it is fresh.
        count: held-out images or vectors.
        exact: how many of them are in the training set too.
        near: how many more are near-copies of training data.
        related: how many more are of subjects that are in the training set.
    """

    threshold: float | None
    count: int
    exact: int
    near: int
    related: int = 0

    def sentence(self, held_out: str = "reference images", train: str = "training images") -> str:
        """The overlap in words; empty if there is none."""
        parts = []
        if self.exact + self.near:
            nearly = f" ({self.near} of them nearly: the same saved anew)" if self.near else ""
            parts.append(f"{self.exact + self.near:,} of {self.count:,} {held_out} are {train}{nearly}")
        if self.related:
            parts.append(f"{self.related:,} of {self.count:,} {held_out} show subjects of the {train}")
        if not parts:
            return ""
        told = " and ".join(parts)
        if self.threshold is None:
            return f"{told}: replication cannot be measured"
        return f"{told} and were left out where replication is calibrated"


def calibrate(
    train: Tensor,
    held_out: Tensor,
    *,
    quantile: float = 0.05,
    allow_train_as_reference: bool = False,
    related: Tensor | None = None,
    features: tuple[Tensor, Tensor] | None = None,
) -> Calibration:
    """How near a fresh real image comes to the training set in only ``quantile`` of cases.

    Held-out data that is in the training set, or a near-copy of something in it, says nothing about fresh data: it is
    left out and counted.

    Args:
        train: training images (uint8) or vectors ``(N, ...)``.
        held_out: real images or vectors that should not be among them, ``(M, ...)``.
        quantile: between 0 and 1.
        allow_train_as_reference: accept held-out data of which more than half is training data.
        related: which of the held-out data are of subjects that are in the training set, bool ``(M,)``: another image
            of the same person is no fresh one, and is left out and counted as well.
        features: of ``train`` and of ``held_out``, float ``(N, D)`` and ``(M, D)``: distances are theirs then. What is
            in both sets is told by the data themselves.

    Raises:
        UsageError: too little held-out data to know that quantile (less than ``1 / quantile``), or more than half of it
            is training data.
    """
    if not 0 < quantile < 1:
        raise UsageError(f"quantile must lie between 0 and 1, got {quantile}")
    if len(held_out) * quantile < 1:
        raise UsageError(f"the {quantile:g} quantile needs {1 / quantile:.0f} held-out images or more: {len(held_out)}")
    first = _first_of_each(train)
    known = torch.tensor(list(first.values()))
    exact = torch.tensor([key in first for key in _hashes(held_out)])
    rest = (~exact).nonzero()[:, 0]
    distance = torch.empty(0, dtype=torch.float64)
    near = torch.zeros(0, dtype=torch.bool)
    if len(rest) and (allow_train_as_reference or 2 * len(rest) >= len(held_out)):
        # a doubled one is not its own second nearest
        found = nearest_neighbours(held_out[rest], train, min(3, len(known)), only=known)[1]
        distance, near = found[:, 0], _near_copies(found, held_out.dtype == torch.uint8)
    copies = int(exact.sum()) + int(near.sum())
    same = torch.zeros_like(near) if related is None or not len(near) else related[rest] & ~near
    is_fresh = ~(near | same)
    fresh = distance[is_fresh]
    if features is not None and len(fresh):
        fresh = nearest_neighbours(features[1][rest[is_fresh]], features[0])[1][:, 0]
    if 2 * copies > len(held_out) and not allow_train_as_reference:
        raise UsageError(
            f"{copies:,} of {len(held_out):,} in the reference are in the training set too: against its own training "
            "set a model that copies looks perfect. Give held-out real data, or pass --allow-train-as-reference"
        )
    threshold = None
    if len(fresh) * quantile >= 1:
        threshold = float(torch.quantile(fresh, quantile))
    elif not allow_train_as_reference:
        raise UsageError(
            f"the {quantile:g} quantile needs {1 / quantile:.0f} held-out images or more: {len(fresh)} are left of "
            f"{len(held_out)} without those that are training images{' or of their subjects' if same.any() else ''}"
        )
    return Calibration(threshold, len(held_out), int(exact.sum()), int(near.sum()), int(same.sum()))


def distinct(points: Tensor) -> Tensor:
    """Index of the first of every images or vectors that are equal byte by byte: int64, ascending."""
    return torch.tensor(list(_first_of_each(points).values()))


def shared(points: Tensor, others: Tensor) -> int:
    """How many images or vectors are among others, byte by byte."""
    known = set(_hashes(others))
    return sum(key in known for key in _hashes(points))


def _first_of_each(points: Tensor) -> dict[bytes, int]:
    first: dict[bytes, int] = {}
    for index, key in enumerate(_hashes(points)):
        first.setdefault(key, index)
    return first


def _hashes(points: Tensor) -> list[bytes]:
    parts = (part.contiguous().cpu().numpy() for part in chunks(points, 4096))
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for part in parts for row in part]


def _near_copies(distance: Tensor, are_images: bool) -> Tensor:
    """Which are much nearer to their nearest neighbour than to the next one: bool ``(M,)``.

    ``distance`` ``(M, k)`` are those to the nearest, k up to 3. Of images a third is never chance; of vectors in d
    dimensions a share ``r**d`` comes within ``r`` by chance, and d is told by the second and third neighbour (the
    log of their ratio is exponential with rate 2 d), which copies do not change.
    """
    if distance.shape[1] < 2 + (not are_images):
        return torch.zeros(len(distance), dtype=torch.bool)
    limit = NEAR
    if not are_images:
        logs = (distance[:, 2] / distance[:, 1]).log()
        logs = logs[torch.isfinite(logs)]
        limit = min(NEAR, CHANCE ** (2 * float(logs.median()) / math.log(2))) if len(logs) else 0.0
    return distance[:, 0] < limit * distance[:, 1]


def replication(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    quantile: float = 0.05,
    features: Callable[[Tensor], Tensor] | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Share of samples that are nearer to a training image than real images ever are by chance.

    The threshold is the ``quantile`` of the distances from held-out real images to their nearest training image. So
    fresh real data scores ``quantile`` by construction, and a generator that copies its training set scores 1. Held-out
    images that are training images, or near-copies of them, are left out, see :func:`calibrate`.

    Args:
        samples: uint8 images ``(N, C, H, W)``, or points ``(N, D)``.
        train: what the generator was trained on, of the same kind.
        held_out: real data of the same origin that was *not* trained on.
        quantile: the rate that fresh real data shall score.
        features: map from images to features, a detector for instance; by default the pixels in [0, 1] themselves.
        threshold: that of :func:`calibrate` for ``train`` and ``held_out``, where it is known from before.

    Returns:
        ``replication`` (the share), ``threshold``, ``quantile``, and for every sample its nearest training image:
        ``index`` int64 ``(N,)`` and ``distance`` float64 ``(N,)``.

    Raises:
        UsageError: too few held-out images, most of them training images, or images of different sizes.
    """
    if features is not None:
        samples, train, held_out = features(samples), features(train), features(held_out)
    if threshold is None:
        found = calibrate(train, held_out, quantile=quantile)
        if sentence := found.sentence("held-out images", "training images"):
            warnings.warn(sentence, NomadiffWarning, stacklevel=2)
        threshold = found.threshold
        assert threshold is not None
    index, distance = (column[:, 0] for column in nearest_neighbours(samples, train))
    share = float((distance <= threshold).double().mean())
    return {"replication": share, "threshold": threshold, "quantile": quantile, "index": index, "distance": distance}
