"""The random numbers of one run: functions of its seed, drawn on the host, the same for every kernel.

Both kernels get their noise from here, so they compute the same thing up to rounding, a run's result does not depend on
which runs share its batch, and sample ``i`` of a seed is the same however many are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nomadiff.plane.schedule import STEPS

__all__ = ["EpochNoise", "SamplingNoise", "epoch_noise"]


@dataclass(frozen=True)
class EpochNoise:
    """What one pass over ``n`` points draws.

    Attributes:
        order: int32 ``(n,)``, the order in which the points are visited.
        times: int32 ``(n,)``, the step in 0..39 of each visit.
        noise: float32 ``(n, 2)``, the standard normal noise of each visit.
    """

    order: np.ndarray
    times: np.ndarray
    noise: np.ndarray


def epoch_noise(seed: int, count: int, *, shuffled: bool) -> Iterator[EpochNoise]:
    """The noise of one epoch after the other, without end, for a training of ``count`` points with this seed."""
    generator = np.random.Generator(np.random.SFC64(seed))
    order = np.arange(count, dtype=np.int32)
    while True:
        if shuffled:
            order = generator.permutation(count).astype(np.int32)
        times = generator.integers(STEPS, size=count, dtype=np.int32)
        yield EpochNoise(order, times, generator.standard_normal((count, 2), dtype=np.float32))


class SamplingNoise:
    """The noise of a sample set, drawn block by block: sample ``i`` gets the same numbers for any sizes of blocks."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.SFC64(seed))

    def block(self, count: int) -> np.ndarray:
        """Noise of the next ``count`` samples, float32 ``(count, 39, 2)``: the start, then one a step but the last."""
        return self._generator.standard_normal((count, STEPS - 1, 2), dtype=np.float32)
