"""Real data set against real data: random splits of a reference, for the floor that fresh real data scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError

__all__ = ["draws", "fresh_count", "mean_scores"]

SPLIT = 20_000  # images split in all: the fewer there are, the more often, since one split of few may be off by half


def fresh_count(total: int, count: int | None = None) -> int:
    """How many of ``total`` real images to draw for the floor of ``count`` samples: at most half of them.

    The ratio to the rest is that of ``count`` to ``total``: coverage and recall depend on it.
    """
    return total // 2 if count is None else min(total * count // (total + count), total // 2)


def draws(total: int, count: int | None = None, subjects: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Split ``total`` images at random (files are often sorted), up to ten times.

    Args:
        total: number of images.
        count: of the samples that the floor is for, see :func:`fresh_count`; half are drawn by default.
        subjects: whose each image is, int64 ``(total,)``. Then whole subjects are drawn, as many as fit into that
            number: images of one patient or person look alike, and would make real data seem nearer than it is.

    Yields:
        Indices of the images drawn and of all others, int64.

    Raises:
        UsageError: all images are of one subject.
    """
    drawn = fresh_count(total, count)
    for seed in range(max(1, min(10, SPLIT // total))):
        random = np.random.default_rng(seed)
        if subjects is None:
            order = torch.from_numpy(random.permutation(total))
            yield order[:drawn], order[drawn:]
        else:
            chosen = _whole_subjects(subjects, drawn, random)
            yield torch.nonzero(chosen)[:, 0], torch.nonzero(~chosen)[:, 0]


def _whole_subjects(subjects: Tensor, drawn: int, random: np.random.Generator) -> Tensor:
    """Which images belong to subjects drawn at random, of at most ``drawn`` images together; the smallest if none fits.

    Gives bool, one an image.
    """
    names, counts = np.unique(subjects.numpy(), return_counts=True)
    if len(names) < 2:
        raise UsageError("fresh real data cannot be judged: all reference images are of one subject")
    taken, room = [], drawn
    for index in random.permutation(len(names)).tolist():
        if counts[index] <= room:
            taken.append(names[index])
            room -= int(counts[index])
    return torch.isin(subjects, torch.from_numpy(np.array(taken or [names[counts.argmin()]])))


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over several draws."""
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
