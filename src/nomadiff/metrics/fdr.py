"""FDr, the Frechet distance as a ratio: how many times farther samples are than fresh real data, at equal counts.

The Frechet distance of few features is too large, and the fewer the larger; a bare distance of 40 says nothing without
the number of images and the detector. So fresh real data is measured in the same way: some of the reference is drawn
at random and judged by the rest, and just as many of the samples are judged by the same rest. FDr is the ratio of the
two distances, each a mean over the draws (:func:`~nomadiff.metrics.splits.draws`). Real data scores 1 but for chance;
below 1 samples are nearer than real images are to one another, as copies of the reference are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nomadiff.metrics.frechet import Statistics, frechet_distance
from nomadiff.metrics.splits import draws, fresh_count

__all__ = ["distances_of_draws", "fdr", "too_few"]


def distances_of_draws(real: Tensor, fake: Tensor | None, count: int, subjects: Tensor | None = None) -> float:
    """Mean Frechet distance to the rest of ``real``: of what is drawn from it, or of just as many of ``fake``.

    Args:
        real: float features ``(N, D)`` of the reference.
        fake: float features ``(count, D)``; None takes the real ones that are drawn.
        count: number of the samples, which the size of a draw depends on.
        subjects: whose each real feature is, int64 ``(N,)``: nobody's are on both sides.

    Raises:
        UsageError: as :func:`~nomadiff.metrics.frechet.frechet_distance`.
    """
    found = []
    for seed, (some, rest) in enumerate(draws(len(real), count, subjects)):
        if fake is None:
            judged = real[some]
        else:
            # another order than that of the draw: samples in the order of the reference are no draw of it
            order = np.random.default_rng([seed, 1]).permutation(count)
            judged = fake[torch.from_numpy(order[: len(some)])]
        found.append(frechet_distance(Statistics.from_features(real[rest]), Statistics.from_features(judged)))
    return float(np.mean(found))


def fdr(real: Tensor, fake: Tensor, *, subjects: Tensor | None = None, fresh: float | None = None) -> float | None:
    """The ratio; None where the reference is too small to be split, or its halves are the same.

    Args:
        real: float features ``(N, D)`` of the reference.
        fake: float features ``(M, D)`` of the samples.
        subjects: whose each real feature is, int64 ``(N,)``.
        fresh: :func:`distances_of_draws` of the real ones, where it is known from before.

    Raises:
        UsageError: features that are not finite, or of different dimensions.
    """
    if fresh_count(len(real), len(fake)) < 2:
        return None
    if fresh is None:
        fresh = distances_of_draws(real, None, len(fake), subjects)
    return distances_of_draws(real, fake, len(fake), subjects) / fresh if fresh > 0 else None


def too_few(counts: Mapping[str, int], dimension: int | None) -> str:
    """One line if some set has no more features than dimensions; empty if all have, or the dimension is not known.

    Args:
        counts: number of features of each set, by name.
        dimension: of a feature.
    """
    few = [f"{name} {count:,}" for name, count in counts.items() if dimension is not None and count <= dimension]
    if not few:
        return ""
    return (
        f"few for {dimension:,} dimensions ({', '.join(few)}): the bare Frechet distance depends on the number; "
        "compare it at equal counts only, or by FDr or a kernel distance"
    )
