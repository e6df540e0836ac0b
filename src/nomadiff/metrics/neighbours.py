"""Nearest neighbours among features or images, in blocks: an N x N matrix is never held.

Pairs are screened first (:mod:`~nomadiff.metrics.screening`); those that may be among the nearest are measured in
float64 from their differences. So a copy is at distance exactly 0, and results do not depend on the block size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.mapped import rows
from nomadiff.errors import UsageError
from nomadiff.metrics.screening import BLOCK, Pairs, Screen, blocks_of, measure
from nomadiff.progress import progress_bar

__all__ = ["AT_ONCE", "LONG", "as_points", "check_finite", "kth_distances", "nearest_neighbours"]

LARGEST = 1e15  # of a coordinate: squared distances in 10^8 dimensions still fit float32
AT_ONCE = 1 << 28  # values of images that are searched together: a gigabyte of float32
LONG = 3e8  # pairs from which on the work takes seconds and shows a bar


def as_points(points: Tensor | np.ndarray, what: str = "points") -> Tensor:
    """Features or images as float32 points ``(N, D)``; uint8 images are flattened and scaled to [0, 1].

    Raises:
        UsageError: there are none, or a value is not finite or above 1e15.
    """
    x = torch.as_tensor(points)
    if x.ndim < 2 or x.numel() == 0:
        raise UsageError(f"{what}: expected at least one point (N, D) or image (N, C, H, W), got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.flatten(1).float() / 255
    x = check_finite(x.flatten(1).float(), what)
    largest = float(torch.linalg.vector_norm(x, float("inf")))
    if largest > LARGEST:
        raise UsageError(f"{what}: values of {largest:.0e} are too large to square in float32; divide them all")
    return x


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
    queries: Tensor | np.ndarray,
    points: Tensor | np.ndarray,
    k: int = 1,
    *,
    itself: bool = False,
    only: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of ``points`` for every query, nearest first.

    Args:
        queries: float ``(N, D)``, or uint8 images ``(N, C, H, W)``, which are scaled to [0, 1].
        points: what is searched, ``(M, D)`` or images of the same size, M at least k (k + 1 with ``itself``).
        k: how many.
        only: search these rows of the points only, int64, ascending; the index is still that of the points.
        itself: the queries *are* the points, and a point is not its own neighbour (each pair is then computed once).

    Returns:
        Index int64 ``(N, k)`` and Euclidean distance float64 ``(N, k)``, on the CPU.

    Raises:
        UsageError: too few points, different dimensions, or a value that is not finite.
    """
    x = as_points(queries, "queries")
    if not itself:
        points = torch.as_tensor(points)
        if only is not None or (points.dtype == torch.uint8 and points.numel() > AT_ONCE):
            return _nearest_in_parts(x, points, torch.arange(len(points)) if only is None else only, k)
    y = x if itself else as_points(points, "points")
    _check(x, y.shape[1], len(y), k, itself)
    return _nearest(x, None if itself else y, k, every=True)


def _check(x: Tensor, dimension: int, count: int, k: int, itself: bool = False) -> None:
    if x.shape[1] != dimension:
        raise UsageError(f"queries of dimension {x.shape[1]} cannot be compared with points of {dimension}")
    if count < k + itself:
        raise UsageError(f"{k} nearest neighbours need at least {k + itself} points, got {count}")


def _nearest_in_parts(x: Tensor, points: Tensor, places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of so many points that a float32 copy of all would not fit into memory."""
    width = max(1, points[:1].numel())
    _check(x, width, len(places), k)
    index = torch.empty(len(x), 0, dtype=torch.int64)
    distance = torch.empty(len(x), 0, dtype=torch.float64)
    for some in places.split(max(1, AT_ONCE // width)):
        y = as_points(rows(points, some), "points")
        found, far = _nearest(x, y, min(k, len(y)), every=True)
        index, distance = torch.cat([index, some[found]], 1), torch.cat([distance, far], 1)
        order = distance.argsort(dim=1, stable=True)[:, :k]  # equal ones in the order of the points
        index, distance = index.gather(1, order), distance.gather(1, order)
    return index, distance


def kth_distances(points: Tensor | np.ndarray, k: int) -> Tensor:
    """Distance of every point ``(N, D)`` to its k-th nearest other one: float64 ``(N,)``, N more than k."""
    x = as_points(points)
    return _nearest(x, None, k, every=False)[1][:, -1]


def _nearest(x: Tensor, points: Tensor | None, k: int, *, every: bool) -> tuple[Tensor, Tensor]:
    """The k nearest of ``points`` or of the other ``x``; unless ``every``, only the k-th distance is exact."""
    screen = Screen(x, points)
    y = x if points is None else points
    blocks = blocks_of(len(x))
    others = blocks if screen.itself else blocks_of(len(y))
    lists = [
        _List(block, k, screen.reach_of_nearest(block, block if screen.itself else others[0], k)) for block in blocks
    ]
    index = torch.empty(len(x), k, dtype=torch.int64)
    distance = torch.empty(len(x), k, dtype=torch.float64)
    show = len(x) * len(y) > LONG
    with progress_bar("nearest neighbours", total=len(x), unit="points", show=show) as advance:
        for number, rows in enumerate(blocks):
            mine = lists[number]
            for other in range(number if screen.itself else 0, len(others)):
                both = screen.itself and other > number  # then the block, transposed, is that of the other rows too
                found, turned = screen.within(rows, others[other], mine.reach, lists[other].reach if both else None)
                assert found is not None
                mine.add(found)
                if turned is not None:
                    lists[other].add(turned._replace(i=turned.j, j=turned.i))
            screen.settle()
            index[rows], distance[rows] = mine.finish(x, y, every)
            lists[number] = _List(rows, k, mine.reach)  # let go of the pairs
            advance(rows.stop - rows.start)
    return index, distance


class _List:
    """The pairs that may be among the k nearest of a block of points, and how far the k-th can be at most."""

    def __init__(self, block: slice, k: int, reach: Tensor) -> None:
        self.block, self.k, self.reach = block, k, reach
        self.parts: list[Pairs] = []
        self.count = 0

    def add(self, pairs: Pairs) -> None:
        self.parts.append(pairs)
        self.count += len(pairs.i)
        if self.count > 16 * self.k * len(self.reach):
            self.tighten()

    def tighten(self) -> Pairs:
        """Keep only what can be among the k nearest by all pairs seen so far."""
        pairs = Pairs(*(torch.cat(column) for column in zip(*self.parts)))
        row = pairs.i - self.block.start
        order, rank = _ranks(row, pairs.upper)
        kth = order[rank == self.k - 1]
        self.reach[row[kth]] = torch.minimum(self.reach[row[kth]], pairs.upper[kth].double())
        pairs = pairs.only(pairs.lower <= self.reach[row])
        self.parts, self.count = [pairs], len(pairs.i)
        return pairs

    def finish(self, x: Tensor, y: Tensor, every: bool) -> tuple[Tensor, Tensor]:
        """Indices and distances of the k nearest, ``(n, k)`` each."""
        pairs = self.tighten()
        pairs = pairs.only(pairs.j.argsort())  # equal distances in the order of the points
        row = pairs.i - self.block.start
        distance = pairs.upper.double()
        if every:
            open_ = torch.arange(len(row))
        else:  # what is surely nearer than the k-th need not be measured
            order, rank = _ranks(row, pairs.lower)
            least = torch.empty(len(self.reach))
            kth = order[rank == self.k - 1]
            least[row[kth]] = pairs.lower[kth]
            open_ = torch.nonzero(pairs.upper >= least[row])[:, 0]
        distance[open_] = measure(x, y, pairs.i[open_], pairs.j[open_])
        order, rank = _ranks(row, distance)
        nearest = order[rank < self.k]
        return pairs.j[nearest].reshape(-1, self.k), distance[nearest].reshape(-1, self.k)


def _ranks(row: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The order that sorts by row and then by value, and the rank of each, so ordered, within its row."""
    order = value.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    ordered = row[order]
    return order, torch.arange(len(row)) - torch.searchsorted(ordered, ordered)
