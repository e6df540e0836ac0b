"""Precision, recall, density and coverage: how two sets of features overlap, by balls around k-th neighbours.

A ball around each real feature reaches to its k-th nearest other real feature, and likewise for the generated ones.
Precision is the share of generated features in some real ball, recall the share of real features in some generated
ball (Kynkaanniemi et al. 2019, eq. 1 and 2); density counts the real balls a generated feature is in, over k, and
coverage is the share of real balls that hold a generated feature (Naeem et al. 2020, eq. 4 and 5).

Two conventions are in use and give slightly different figures; say which one a figure follows:

* ``"prdc"`` (the package of Naeem et al.): inside means nearer than the radius, ``<``; customary k = 5.
* ``"kynkaanniemi"`` (the original and torch-fidelity): ``<=``; customary k = 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.neighbours import BLOCK, as_points, nearest_neighbours
from nomadiff.progress import progress_bar

__all__ = ["CONVENTIONS", "prdc", "radii"]

CONVENTIONS = ("prdc", "kynkaanniemi")
ROUNDING = 8 * torch.finfo(torch.float32).eps  # of |x|^2 + |y|^2 - 2 x.y, relative to |x|^2 + |y|^2, with room


def radii(features: Tensor | np.ndarray, k: int = 5, what: str = "features") -> Tensor:
    """Distance of every feature to its k-th nearest other one: ``(N, D)`` to float64 ``(N,)``.

    Raises:
        UsageError: not more than k features, or a value that is not finite.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if len(features) <= k:
        raise UsageError(f"{what}: precision and recall with k = {k} need more than {k} images, got {len(features)}")
    return nearest_neighbours(features, features, k, itself=True)[1][:, -1]


def prdc(
    real: Tensor | np.ndarray,
    fake: Tensor | np.ndarray,
    k: int = 5,
    convention: str = "prdc",
    *,
    real_radii: Tensor | None = None,
) -> dict[str, float]:
    """Precision, recall, density and coverage of ``fake`` against ``real``.

    Args:
        real: float features ``(N, D)``, more than k.
        fake: float features ``(M, D)``, more than k.
        k: which neighbour sets the radius of a ball.
        convention: one of :data:`CONVENTIONS`.
        real_radii: :func:`radii` of ``real``, where they are known from before.

    Returns:
        ``precision``, ``recall``, ``coverage`` in [0, 1] and ``density`` >= 0.

    Raises:
        UsageError: an unknown convention, too few features, different dimensions, values that are not finite, or real
            features that are all the same.
    """
    if convention not in CONVENTIONS:
        raise UsageError(f"no convention {convention!r}: choose one of {', '.join(CONVENTIONS)}")
    x, y = as_points(real, "real"), as_points(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"features of dimension {x.shape[1]} and {y.shape[1]} cannot be compared: two detectors?")
    real_ball = radii(x, k, "real") if real_radii is None else real_radii
    if not bool((real_ball > 0).any()):
        raise UsageError(f"real: every feature has {k} exact copies (constant features): there is nothing to cover")
    fake_ball = radii(y, k, "fake")  # all 0 for a generator that repeats itself: then recall is 0
    strict = convention == "prdc"
    centre = x.mean(0)
    a, b = x - centre, y - centre
    a_norm, b_norm = a.square().sum(1), b.square().sum(1)
    inside = torch.zeros(len(y), dtype=torch.int64)  # how many real balls hold each generated feature
    recalled = torch.zeros(len(x), dtype=torch.bool)
    covered = torch.zeros(len(x), dtype=torch.bool)
    with progress_bar("precision and recall", total=len(x), unit="points") as advance:
        for start in range(0, len(x), BLOCK):
            rows = slice(start, start + BLOCK)
            for first in range(0, len(y), BLOCK):
                columns = slice(first, first + BLOCK)
                size = a_norm[rows, None] + b_norm[columns]
                square = torch.addmm(size, a[rows], b[columns].T, alpha=-2)
                doubt = size.mul_(ROUNDING)
                in_real = _inside(square, real_ball[rows, None], x[rows], y[columns], doubt, strict)
                in_fake = _inside(square, fake_ball[None, columns], x[rows], y[columns], doubt, strict)
                inside[columns] += in_real.sum(0)
                covered[rows] |= in_real.any(1)
                recalled[rows] |= in_fake.any(1)
            advance(len(a[rows]))
    return {
        "precision": float((inside > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(inside.double().mean()) / k,
        "coverage": float(covered.double().mean()),
    }


def _inside(square: Tensor, ball: Tensor, x: Tensor, y: Tensor, doubt: Tensor, strict: bool) -> Tensor:
    """Which squared distances ``(n, m)`` lie inside the radii ``ball``.

    float32 decides where it is clear; within its rounding error ``doubt`` the pair is measured again in float64.
    """
    gap = square - ball.float().square()
    result = gap < 0
    row, column = torch.nonzero(gap.abs_() <= doubt, as_tuple=True)
    limit = ball.expand(square.shape)
    for i, j in zip(row.split(BLOCK), column.split(BLOCK)):
        exact = (x[i].double() - y[j].double()).square().sum(1).sqrt()
        result[i, j] = exact < limit[i, j] if strict else exact <= limit[i, j]
    return result
