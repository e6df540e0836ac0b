"""Randomness as a function of seeds and indices, never of history.

Sample ``i`` of seed ``s`` depends on ``(s, i)`` only: not on the batch it is drawn in, on the number of processes, on
the device, or on what ran before. Training randomness is a function of (seed, images seen, place in the batch), so a
resumed run needs no saved generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence

from nomadiff.errors import UsageError

__all__ = ["EDMNoise", "SampleNoise", "checked_seed", "mixed_seed", "own_randomness"]


def mixed_seed(*parts: int) -> int:
    """Hash integers in [0, 2**64) into one 63-bit seed; different tuples, unrelated seeds (numpy's SeedSequence).

    Raises:
        UsageError: an integer outside that range.
    """
    for part in parts:
        checked_seed(part)
    # SeedSequence pads with zeros and cuts large integers up: length and width are fixed, or (5,) would equal (5, 0)
    words = [len(parts), *(half for part in parts for half in (part & 0xFFFFFFFF, part >> 32))]
    high, low = np.random.SeedSequence(words).generate_state(2, dtype=np.uint32)
    return (int(high) << 31) ^ int(low)


def checked_seed(seed: int, limit: int = 1 << 64) -> int:
    """``seed`` itself, if it is one.

    Raises:
        UsageError: it is negative, or not below ``limit``.
    """
    if not 0 <= seed < limit:
        raise UsageError(f"a seed must be a whole number from 0 to {limit - 1}, got {seed}")
    return seed


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give torch's global generators, of the CPU and of ``device``, back to the caller as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


_WORTH_A_THREAD = 1 << 16  # values: half a millisecond


class _Key(ISeedSequence):
    """Gives Philox its key. ``Philox(key=...)`` asks the system for entropy first, which costs as much again."""

    def __init__(self, seed: int, index: int) -> None:
        # uint64 from the start: numpy makes a list of a large and a small integer floats, which merges large seeds
        self._words = np.array([seed, index], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._words


class SampleNoise:
    """One independent stream of standard normal noise for each sample, keyed by ``(seed, index)``.

    Noise is drawn on the CPU (numpy's counter-based Philox) and then moved, so every device gets the same numbers. As
    many threads as torch may use share the streams out; the numbers do not depend on it.

    Args:
        seed: seed of the whole sample set, 0 <= seed < 2**64.
        indices: index of each sample of this batch within the set.

    Raises:
        UsageError: no such seed.
    """

    def __init__(self, seed: int, indices: Sequence[int] | np.ndarray) -> None:
        checked_seed(seed)
        keys: list[Any] = [_Key(seed, int(index)) for index in indices]  # numpy's types know no such key
        self._streams = [np.random.Generator(np.random.Philox(key)) for key in keys]

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw the next noise of every stream: float32 on the CPU, shape ``(len(indices), *shape)``."""
        noise = np.empty((len(self._streams), *shape), dtype=np.float32)

        def fill(part: slice) -> None:
            for stream, row in zip(self._streams[part], noise[part]):
                stream.standard_normal(dtype=np.float32, out=row)

        threads = min(torch.get_num_threads(), len(noise), noise.size // _WORTH_A_THREAD)
        if threads > 1:  # numpy lets go of Python while it draws
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, (slice(first, None, threads) for first in range(threads))))
        else:
            fill(slice(None))
        return torch.from_numpy(noise)

    def integers(self, high: int) -> torch.Tensor:
        """Draw one integer in ``[0, high)`` from every stream: int64, shape ``(len(indices),)``."""
        return torch.tensor([int(stream.integers(high)) for stream in self._streams], dtype=torch.int64)

    def churn(self, shape: Sequence[int], used: bool) -> torch.Tensor | None:
        """Noise for one step of a churned solver; None, and nothing is drawn, where the step is not churned."""
        return self.normal(shape) if used else None


class EDMNoise:
    """Per-sample noise with NVIDIA EDM's seeds: sample ``k`` draws from a torch generator seeded ``seeds[k]``.

    Use it instead of :class:`SampleNoise` to reproduce images of unconditional models published with EDM's CPU seeds.
    With churn EDM draws float64 noise at every step, whether it is used or not; so does this. Classes are drawn in
    another way than EDM's, so with class labels the noise of churn is another.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed) % (1 << 32)) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw the next noise of every stream: float32 on the CPU, shape ``(len(seeds), *shape)``."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self._generators])

    def integers(self, high: int) -> torch.Tensor:
        """Draw one integer in ``[0, high)`` from every stream: int64, shape ``(len(seeds),)``."""
        return torch.stack([torch.randint(high, (), generator=generator) for generator in self._generators])

    def churn(self, shape: Sequence[int], used: bool) -> torch.Tensor:
        """Noise for one step of a churned solver, drawn whether the step is churned or not: float64 on the CPU."""
        return torch.stack(
            [torch.randn(tuple(shape), generator=generator, dtype=torch.float64) for generator in self._generators]
        )
