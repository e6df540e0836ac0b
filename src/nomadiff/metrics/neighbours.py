"""Nearest neighbours among features or images, in blocks: an N x N matrix is never held.

Squared distances are searched in float32 as ``|x|^2 + |y|^2 - 2 x.y`` on centred points, which is fast and loses
digits; the few candidates found are then measured again in float64 from their differences. So a copy is at distance
exactly 0, and results do not depend on the block size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.progress import progress_bar

__all__ = ["Squares", "as_points", "check_finite", "nearest_neighbours"]

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
    return check_finite(x, what)


def check_finite(x: Tensor, what: str) -> Tensor:
    """``x`` ``(N, D)`` itself, if all of it is finite.

    Raises:
        UsageError: the message names the first row that is not.
    """
    for start in range(0, len(x), BLOCK):  # in blocks: the check makes copies
        wrong = ~torch.isfinite(x[start : start + BLOCK]).all(1)
        if bool(wrong.any()):
            raise UsageError(f"{what}: row {start + int(wrong.nonzero()[0, 0])} is not finite (NaN or infinity)")
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
    own = torch.arange(len(x))
    distances = torch.empty(found.shape, dtype=torch.float64)
    for rows in own.split(BLOCK):
        here = x[rows].double()
        for column in range(found.shape[1]):
            gap = y[found[rows, column]].double().sub_(here)
            distances[rows, column] = torch.linalg.vector_norm(gap, dim=1)
    if itself:
        distances[found == own[:, None]] = torch.inf
    distances, order = distances.sort(dim=1, stable=True)
    return found.gather(1, order)[:, :k], distances[:, :k]


class Squares:
    """Squared distances of blocks of points in float32: ``|x|^2 + |y|^2 - 2 x.y`` on points centred block by block.

    Args:
        x: float32 ``(N, D)``.
        y: float32 ``(M, D)``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.centre = y.mean(0)
        self.x_norm = self._norms(x)
        self.y_norm = self.x_norm if y is x else self._norms(y)

    def _norms(self, points: Tensor) -> Tensor:
        return torch.cat([(part - self.centre).square_().sum(1) for part in points.split(BLOCK)])

    def rows(self) -> Iterator[tuple[slice, Tensor]]:
        """The blocks of ``x``: their place, and their centred points for :meth:`block`."""
        for start in range(0, len(self.x), BLOCK):
            place = slice(start, min(start + BLOCK, len(self.x)))
            yield place, self.x[place] - self.centre

    def block(self, rows: slice, centred: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
        """Squared distances ``(n, m)`` of two blocks, and ``|x|^2 + |y|^2``, which their rounding error goes with."""
        size = self.x_norm[rows, None] + self.y_norm[columns]
        return torch.addmm(size, centred, (self.y[columns] - self.centre).T, alpha=-2), size


def _candidates(x: Tensor, y: Tensor, keep: int, itself: bool) -> Tensor:
    """Indices int64 ``(N, keep)`` of the points nearest to each query by float32 distances, in no certain order."""
    values = torch.full((len(x), keep), torch.inf)
    found = torch.zeros(len(x), keep, dtype=torch.int64)

    def offer(rows: slice, part: Tensor, first: int) -> None:
        """Merge the distances of a block into the lists of its queries."""
        near, at = part.topk(min(keep, part.shape[1]), dim=1, largest=False, sorted=False)
        everything = torch.cat([values[rows], near], 1)
        values[rows], order = everything.topk(keep, dim=1, largest=False, sorted=False)
        found[rows] = torch.cat([found[rows], at + first], 1).gather(1, order)

    squares = Squares(x, y)
    show = len(x) * len(y) > LONG
    with progress_bar("nearest neighbours", total=len(x), unit="points", show=show) as advance:
        for rows, centred in squares.rows():
            for first in range(rows.start if itself else 0, len(y), BLOCK):
                columns = slice(first, min(first + BLOCK, len(y)))
                part, _ = squares.block(rows, centred, columns)
                offer(rows, part, first)
                if itself and first > rows.start:
                    offer(columns, part.T, rows.start)
            advance(len(centred))
    return found
