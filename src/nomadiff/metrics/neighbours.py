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
        itself: the queries *are* the points, and a point is not its own neighbour.

    Returns:
        Index int64 ``(N, k)`` and Euclidean distance float64 ``(N, k)``, on the CPU.

    Raises:
        UsageError: too few points, different dimensions, or a value that is not finite.
    """
    x, y = as_points(queries, "queries"), as_points(points, "points")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"queries of dimension {x.shape[1]} cannot be compared with points of {y.shape[1]}")
    if len(y) < k + itself:
        raise UsageError(f"{k} nearest neighbours need at least {k + itself} points, got {len(y)}")
    centre = y.mean(0)
    x_centred, y_centred = x - centre, y - centre
    y_norm = y_centred.square().sum(1)
    keep = min(k + itself + SPARE, len(y))
    indices = torch.empty(len(x), k, dtype=torch.int64)
    distances = torch.empty(len(x), k, dtype=torch.float64)
    with progress_bar("nearest neighbours", total=len(x), unit="points") as advance:
        for start in range(0, len(x), BLOCK):
            rows = x_centred[start : start + BLOCK]
            values = torch.empty(len(rows), 0)
            found = torch.empty(len(rows), 0, dtype=torch.int64)
            for first in range(0, len(y), BLOCK):
                # |x|^2 is the same along a row and does not change the order
                part = torch.addmm(y_norm[first : first + BLOCK], rows, y_centred[first : first + BLOCK].T, alpha=-2)
                near, at = part.topk(min(keep, part.shape[1]), dim=1, largest=False)
                values, found = torch.cat([values, near], 1), torch.cat([found, at + first], 1)
                values, order = values.topk(min(keep, values.shape[1]), dim=1, largest=False)
                found = found.gather(1, order)
            own = torch.arange(start, start + len(rows))
            exact = torch.stack([(x[own].double() - y[column].double()).square().sum(1) for column in found.T], 1)
            if itself:
                exact[found == own[:, None]] = torch.inf
            near, order = exact.sort(dim=1, stable=True)
            indices[own], distances[own] = found.gather(1, order)[:, :k], near[:, :k].sqrt()
            advance(len(rows))
    return indices, distances
