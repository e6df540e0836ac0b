"""Real data set against real data: random splits of a reference, for the floor that fresh real data scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["draws", "fresh_count", "mean_scores"]

SPLIT = 20_000  # images split in all: the fewer there are, the more often, since one split of few may be off by half


def fresh_count(total: int, count: int | None = None) -> int:
    """How many of ``total`` real images to draw for the floor of ``count`` samples: at most half of them.

    The ratio to the rest is that of ``count`` to ``total``: coverage and recall depend on it.
    """
    return total // 2 if count is None else min(total * count // (total + count), total // 2)


def draws(total: int, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Split ``total`` images at random (files are often sorted), up to ten times.

    Args:
        total: number of images.
        count: of the samples that the floor is for, see :func:`fresh_count`; half are drawn by default.

    Yields:
        Indices of the images drawn and of all others, int64.
    """
    drawn = fresh_count(total, count)
    for seed in range(max(1, min(10, SPLIT // total))):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(total))
        yield order[:drawn], order[drawn:]


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over several draws."""
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
