"""Which source comes at which position of an endless stream, exactly in proportion and known for every position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from nomadiff.data.selection import shuffled
from nomadiff.errors import UsageError

__all__ = ["Interleave", "ShuffledEpochs", "exact_shares"]


_TAG = 0x0DE5  # keeps the shuffles apart from every other use of the same seed


class Interleave:
    """Spreads sources over positions 0, 1, 2, ... as evenly as their shares allow.

    Source 0 with share f takes position g when ``floor((g + 1) f) > floor(g f)``, so that among the first g positions
    it has ``floor(g f)``: never off by one or more. The other positions are numbered anew and split in the same way
    between source 1 and the rest, and so on. A position needs no history, so a resumed run needs none either.

    Shares are ratios of integers: with floats an image would sometimes be at the wrong position.

    Args:
        shares: positive, summing to 1.
    """

    def __init__(self, shares: Sequence[Fraction]) -> None:
        self._splits, left = [], Fraction(1)
        for share in shares:
            # below 10^9 both parts of the ratio, and so the product of two, fit int64
            self._splits.append((share / left).limit_denominator(10**9) if left > share else Fraction(1))
            left -= share

    def place(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source at each position, and how many images of that source came before it.

        Args:
            positions: int64 ``(count,)``, ascending, non-negative.

        Returns:
            int64 ``(count,)`` source indices and int64 ``(count,)`` ordinals within the source.
        """
        source = np.empty_like(positions)
        ordinal = np.empty_like(positions)
        where, left = np.arange(len(positions)), positions
        for index, split in enumerate(self._splits):
            before = _floor_product(left, split)
            taken = _floor_product(left + 1, split) > before
            source[where[taken]] = index
            ordinal[where[taken]] = before[taken]
            where, left = where[~taken], (left - before)[~taken]
        return source, ordinal


class ShuffledEpochs:
    """The order in which the images of one source are used: a fresh permutation every time all were used once.

    Args:
        count: images in the source.
        stream: number of the source, which keeps its shuffles apart from those of others.
    """

    def __init__(self, count: int, stream: int) -> None:
        self._count = count
        self._stream = stream
        self._recent: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, ordinals: np.ndarray, seed: int) -> np.ndarray:
        """Image used at each ordinal: int64, the shape of ``ordinals`` (1-D, ascending)."""
        epochs, places = np.divmod(ordinals, self._count)
        chosen = np.empty_like(ordinals)
        starts = np.flatnonzero(np.diff(epochs, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(epochs)]):
            chosen[start:stop] = self._order(seed, int(epochs[start]))[places[start:stop]]
        return chosen

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        order = self._recent.get((seed, epoch))
        if order is None:
            order = shuffled(self._count, _TAG, seed, self._stream, epoch)
            # a batch may lie across two epochs; replaced whole, so that threads never see it half changed
            self._recent = {**dict(list(self._recent.items())[-1:]), (seed, epoch): order}
        return order


def exact_shares(counts: Sequence[int], real_fraction: float | None, weights: Sequence[float] | None) -> list[Fraction]:
    """Exact share of every source, the real one first.

    Args:
        counts: images of every source.
        real_fraction: share of the real one, strictly between 0 and 1; None makes every image count once.
        weights: relative shares of the synthetic ones; their sizes unless given.

    Raises:
        UsageError: shares that make no sense.
    """
    real, *synthetic = counts
    if not synthetic:
        if real_fraction is not None or weights is not None:
            raise UsageError("a real fraction or weights need at least one synthetic source")
        return [Fraction(1)]
    parts = [Fraction(count) for count in synthetic]
    if weights is not None:
        if len(weights) != len(synthetic):
            raise UsageError(f"{len(weights)} weights for {len(synthetic)} synthetic sources; give one each")
        if not all(math.isfinite(weight) and 1e-6 <= weight <= 1e6 for weight in weights):
            raise UsageError(f"weights must lie in 0.000001..1000000, got {', '.join(map(str, weights))}")
        parts = [Fraction(weight).limit_denominator(10**6) for weight in weights]
    share = Fraction(real, sum(counts))
    if real_fraction is not None:
        if not 1e-6 <= real_fraction <= 1 - 1e-6:
            raise UsageError(f"the real fraction must lie strictly between 0 and 1, got {real_fraction}")
        share = Fraction(real_fraction).limit_denominator(10**6)
    return [share, *((1 - share) * part / sum(parts) for part in parts)]


def _floor_product(numbers: np.ndarray, ratio: Fraction) -> np.ndarray:
    """``floor(number * ratio)`` without overflow: int64."""
    whole, rest = np.divmod(numbers, ratio.denominator)
    return whole * ratio.numerator + rest * ratio.numerator // ratio.denominator
