"""Which source comes at which position of an endless stream, exactly in proportion and known for every position."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from nomadiff.data.selection import shuffled

__all__ = ["Interleave", "ShuffledEpochs"]


_TAG = 0x0DE5  # keeps the shuffles apart from every other use of the same seed


class Interleave:
    """Spreads sources over positions 0, 1, 2, ... as evenly as their shares allow.

    Source 0 with share f takes position g when ``floor((g + 1) f) > floor(g f)``, so that among the first g positions
    it has ``floor(g f)``: never off by one or more. The other positions are numbered anew and split in the same way
    between source 1 and the rest, and so on. A position needs no history, hence neither does a resumed run.

    Shares are ratios of integers: floats would misplace an image now and then.

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


def _floor_product(numbers: np.ndarray, ratio: Fraction) -> np.ndarray:
    """``floor(number * ratio)`` without overflow: int64."""
    whole, rest = np.divmod(numbers, ratio.denominator)
    return whole * ratio.numerator + rest * ratio.numerator // ratio.denominator
