"""Which pairs of points are near one another, without measuring them all, and without missing one.

Squared distances of whole blocks come from a product, ``|x|^2 + |y|^2 - 2 x.y``. Where the machine multiplies bfloat16
much faster than float32 (AVX-512 BF16, AMX), points are rounded to it first. By the triangle inequality a distance then
differs from the true one by no more than the lengths of the two roundings, which are known. So every pair has a lower
and an upper bound, and the few whose bounds leave a question open are measured in float64 from their difference. The
answers are the same in either precision. A block of which too much stays open is multiplied in float32 instead.
"""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLOCK", "OPEN", "Pairs", "Screen", "blocks_of", "measure"]

BLOCK = 1024
MANY = 0.1  # share of a block's pairs that costs more to list than a product in float32
OPEN = 0.005  # share of a block's pairs that costs more to measure than that
MEASURED = 64  # pairs measured at a time: their differences stay in the processor's cache
ROUNDING = 8 * torch.finfo(torch.float32).eps  # of |x|^2 + |y|^2 - 2 x.y, relative to |x|^2 + |y|^2, with room
HALF = torch.finfo(torch.bfloat16).eps / 2  # of a product that comes out in bfloat16, relative to it


class Pairs(NamedTuple):
    """Pairs of points, int64 ``(P,)`` each, and bounds on their distances, float32 ``(P,)``."""

    i: Tensor
    j: Tensor
    lower: Tensor
    upper: Tensor

    def only(self, chosen: Tensor) -> Pairs:
        """The pairs that ``chosen`` (indices, or one bool a pair) names."""
        return Pairs(*(column[chosen] for column in self))


class Screen:
    """Bounds on the distances between two sets, block by block.

    Args:
        x: float32 ``(N, D)``.
        y: float32 ``(M, D)``; without them ``x`` is compared with itself, and no point is paired with itself.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        self.itself = y is None
        centre = x.mean(0)
        kinds = [torch.bfloat16, torch.float32] if half_is_faster() else [torch.float32]
        self.left = [_Side(x, centre, kind) for kind in kinds]
        self.right = self.left if y is None else [_Side(y, centre, kind) for kind in kinds]
        self.crowded = 0

    def within(
        self,
        rows: slice,
        columns: slice,
        reach: Tensor | None,
        reach_of_columns: Tensor | None,
        *,
        most_open: float = 1.0,
    ) -> tuple[Pairs | None, Pairs | None]:
        """The pairs of a block that may lie within reach: those whose lower bound does not exceed it.

        Args:
            rows, columns: the block, indices into ``x`` and into ``y``.
            reach: a distance for every row, float64 ``(n,)``; None if it is not asked.
            reach_of_columns: a distance for every column, float64 ``(m,)``; None if it is not asked.
            most_open: share of the block's pairs that may be left open, neither surely within reach nor surely not,
                before the block is multiplied again in float32.

        Returns:
            The pairs within their row's reach, and those within their column's reach.
        """
        for left, right in zip(self.left, self.right):
            last = left is self.left[-1]
            product = left.block(rows) @ right.block(columns).T
            a, b = left.of(rows), right.of(columns)
            found: list[Pairs | None] = [None, None]
            for side, limit in enumerate((reach, reach_of_columns)):
                if limit is None:
                    continue
                mask = _may_reach(product, a, b, limit) if side == 0 else _may_reach(product.T, b, a, limit).T
                i, j = mask.nonzero(as_tuple=True)
                if not last and len(i) > MANY * mask.numel():
                    break
                pairs = _bounded(product, i, j, a, b)
                own = limit[j if side else i]
                keep = pairs.lower <= own
                if not last and int((keep & (pairs.upper >= own)).sum()) > most_open * mask.numel():
                    break
                if self.itself and rows == columns:
                    keep &= i != j
                pairs = pairs.only(keep)
                found[side] = pairs._replace(i=pairs.i + rows.start, j=pairs.j + columns.start)
            else:
                return found[0], found[1]
            self.crowded += 1
        raise AssertionError("the last precision answers always")

    def reach_of_nearest(self, rows: slice, columns: slice, k: int) -> Tensor:
        """Upper bound on the distance of each row to its k-th nearest column, float64 ``(n,)``; infinity if too few."""
        a, b = self.left[0].of(rows), self.right[0].of(columns)
        own = self.itself and rows == columns
        if columns.stop - columns.start - own < k:
            return torch.full((rows.stop - rows.start,), torch.inf, dtype=torch.float64)
        product = self.left[0].block(rows) @ self.right[0].block(columns).T
        square = b.norm - 2 * product.float()
        if own:
            square.fill_diagonal_(torch.inf)
        j = square.topk(k, dim=1, largest=False, sorted=False).indices
        i = torch.arange(len(j))[:, None].expand_as(j)
        return _bounded(product, i.flatten(), j.flatten(), a, b).upper.reshape(j.shape).max(1).values.double()

    def settle(self) -> None:
        """Stop using bfloat16 if it did not help."""
        if self.crowded > 3 and len(self.left) > 1:
            self.left, self.right = self.left[1:], self.right[1:]


def measure(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Distances of the pairs ``x[i]``, ``y[j]`` from their differences: float64 ``(P,)``; 0 for equal points."""
    distance = torch.empty(len(i), dtype=torch.float64)
    for start in range(0, len(i), MEASURED):
        some = slice(start, start + MEASURED)
        distance[some] = torch.linalg.vector_norm(x[i[some]].double().sub_(y[j[some]]), dim=1)
    return distance


def blocks_of(count: int) -> list[slice]:
    """Cut ``count`` points into blocks of nearly equal size, at most :data:`BLOCK`."""
    pieces = -(-count // BLOCK)
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


@cache
def half_is_faster() -> bool:
    """Whether products of bfloat16 take less than half the time of float32 here: tried once, in milliseconds."""
    best = {}
    for kind in (torch.float32, torch.bfloat16):
        x = torch.ones(256, 1024, dtype=kind)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            x @ x.T
            times.append(time.perf_counter() - start)
        best[kind] = min(times)
    return best[torch.bfloat16] < 0.5 * best[torch.float32]


class _Block(NamedTuple):
    """Values of some points that bounds need: squared norms as multiplied, and how far rounding has moved each."""

    norm: Tensor
    error: Tensor
    half: bool


class _Side:
    """One set of points, centred, at one precision."""

    def __init__(self, points: Tensor, centre: Tensor, kind: torch.dtype) -> None:
        self.points, self.centre, self.kind = points, centre, kind
        self.norm = torch.empty(len(points))
        self.error = torch.zeros(len(points))
        self.values = torch.empty(points.shape, dtype=kind) if kind == torch.bfloat16 else None
        for rows in blocks_of(len(points)):
            centred = points[rows] - centre
            if self.values is not None:
                self.values[rows] = centred
                rounded = self.values[rows].float()
                self.error[rows] = torch.linalg.vector_norm(centred.sub_(rounded), dim=1) * (1 + 1e-3)
                centred = rounded
            self.norm[rows] = centred.square_().sum(1)

    def block(self, rows: slice) -> Tensor:
        return self.points[rows] - self.centre if self.values is None else self.values[rows]

    def of(self, rows: slice) -> _Block:
        return _Block(self.norm[rows], self.error[rows], self.values is not None)


def _may_reach(product: Tensor, a: _Block, b: _Block, limit: Tensor) -> Tensor:
    """Where a row's reach may extend to a column: bool, True for every pair within reach and a few more.

    Within reach means ``|a|^2 + |b|^2 - 2 p <= (reach + errors)^2 + slack``. What of it depends on both is replaced by
    its largest value over the columns, so that one comparison with a number for each row is left.
    """
    reach = (limit.float() * (1 + 1e-6) + a.error + b.error.max()).square_()
    least = a.norm - reach
    largest = torch.maximum((least + b.norm.max()).abs(), (least + b.norm.min()).abs())  # of twice the product wanted
    slack = ROUNDING * (a.norm + b.norm.max() + largest)
    if a.half:
        slack += (1 + 1e-2) * HALF * largest
    return product - b.norm.div(2) >= ((least - slack) / 2)[:, None]


def _bounded(product: Tensor, i: Tensor, j: Tensor, a: _Block, b: _Block) -> Pairs:
    """The pairs ``i, j`` of a block with their bounds."""
    found = product[i, j].float()
    size = a.norm[i] + b.norm[j]
    square = size - 2 * found
    slack = ROUNDING * size
    if a.half:
        slack += 2 * HALF * found.abs()
    moved = a.error[i] + b.error[j]
    lower = (square - slack).clamp_(min=0).sqrt_().mul_(1 - 1e-6).sub_(moved).clamp_(min=0)
    upper = (square + slack).clamp_(min=0).sqrt_().mul_(1 + 1e-6).add_(moved)
    return Pairs(i, j, lower, upper)
