"""Nearest neighbours among features or images, in blocks: an N x N matrix is never held.

Squared distances are searched in float32 as ``|x|^2 + |y|^2 - 2 x.y`` on centred points, which is fast and loses
digits; the few candidates found are then measured again in float64 from their differences. So a copy is at distance
exactly 0, and results do not depend on the block size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.progress import progress_bar

__all__ = ["as_points", "nearest_neighbours"]

BLOCK = 1024
SPARE = 4  # candidates beyond k, so that float32 rounding cannot push a true neighbour out of the list
LONG = 3e8  # pairs from which on the work takes seconds and shows a bar


def as_points(points: Tensor | np.ndarray, what: str = "points") -> Tensor:
    """Features or images as float32 points ``(N, D)``; uint8 images are flattened and scaled to [0, 1].

    Raises:
        UsageError: there are none, or a value is not finite.
    """
    x = torch.as_tensor(points)
    if x.ndim < 2 or x.numel() == 0:
        raise UsageError(f"{what}: expected at least one point (N, D) or image (N, C, H, W), got {tuple(x.shape)}")
    x = x.flatten(1).float() / 255 if x.dtype == torch.uint8 else x.flatten(1).float()
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x).all(1)).nonzero()[0, 0])
        raise UsageError(f"{what}: row {row} is not finite (NaN or infinity)")
    return x


def nearest_neighbours(
    queries: Tensor | np.ndarray, points: Tensor | np.ndarray, k: int = 1, *, itself: bool = False
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of ``points`` for every query, nearest first.

    Args:
        queries: float ``(N, D)``, or uint8 images ``(N, C, H, W)``, which are scaled to [0, 1].
        points: what is searched, ``(M, D)`` or images of the same size, M at least k (k + 1 with ``itself``).
        k: how many.
        itself: the queries *are* the points, and a point is not its own neighbour (each pair is then computed once).

    Returns:
        Index int64 ``(N, k)`` and Euclidean distance float64 ``(N, k)``, on the CPU.

    Raises:
        UsageError: too few points, different dimensions, or a value that is not finite.
    """
    x = as_points(queries, "queries")
    y = x if itself else as_points(points, "points")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"queries of dimension {x.shape[1]} cannot be compared with points of {y.shape[1]}")
    if len(y) < k + itself:
        raise UsageError(f"{k} nearest neighbours need at least {k + itself} points, got {len(y)}")
    found = _candidates(x, y, min(k + itself + SPARE, len(y)), itself)
    own = torch.arange(len(x))[:, None]
    distances = torch.empty(found.shape, dtype=torch.float64)
    for rows in torch.arange(len(x)).split(BLOCK):
        for column in range(found.shape[1]):
            gap = x[rows].double() - y[found[rows, column]].double()
            distances[rows, column] = gap.square().sum(1).sqrt()
    if itself:
        distances[found == own] = torch.inf
    distances, order = distances.sort(dim=1, stable=True)
    return found.gather(1, order)[:, :k], distances[:, :k]


def _candidates(x: Tensor, y: Tensor, keep: int, itself: bool) -> Tensor:
    """Indices int64 ``(N, keep)`` of the points nearest to each query by float32 distances, in no certain order."""
    centre = y.mean(0)
    b = y - centre
    a = b if itself else x - centre
    a_norm, b_norm = a.square().sum(1), b.square().sum(1)
    values = torch.full((len(a), keep), torch.inf)
    found = torch.zeros(len(a), keep, dtype=torch.int64)

    def offer(start: int, part: Tensor, first: int) -> None:
        """Merge the distances of a block into the lists of its queries."""
        near, at = part.topk(min(keep, part.shape[1]), dim=1, largest=False, sorted=False)
        rows = slice(start, start + len(part))
        everything = torch.cat([values[rows], near], 1)
        values[rows], order = everything.topk(keep, dim=1, largest=False, sorted=False)
        found[rows] = torch.cat([found[rows], at + first], 1).gather(1, order)

    pairs = len(a) * len(b)
    with progress_bar("nearest neighbours", total=len(a), unit="points", show=pairs > LONG) as advance:
        for start in range(0, len(a), BLOCK):
            rows = a[start : start + BLOCK]
            for first in range(start if itself else 0, len(b), BLOCK):
                columns = b[first : first + BLOCK]
                size = a_norm[start : start + BLOCK, None] + b_norm[first : first + BLOCK]
                part = torch.addmm(size, rows, columns.T, alpha=-2)
                offer(start, part, first)
                if itself and first > start:
                    offer(first, part.T, start)
            advance(len(rows))
    return found
