"""The real images of one loop: the same in every generation, or new ones each time (fresh data)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.loops.loop import _REAL
from nomadiff.loops.seeds import derived

__all__ = ["RealImages"]


class RealImages:
    """Hands out slices of a set in an order of the loop's own: ``real(count, seed)`` of ``AutophagousLoop``.

    Which slice it is follows from the seed that the loop asks with, not from what was asked before, so a loop that is
    continued gets the slices it would have got.

    Args:
        images: uint8 ``(N, C, H, W)``, all there are.
        seed: seed of the loop.
        count: images in a training set.
        generations: generations of the loop.
        fresh: every generation takes the next slice that none before it has seen.
        name: what to call the set in an error.

    Raises:
        UsageError: the set runs out.
    """

    def __init__(
        self, images: Tensor, *, seed: int, count: int, generations: int, fresh: bool, name: str = "the real set"
    ) -> None:
        slices = generations if fresh else 1
        if slices * count > len(images):
            if not fresh:
                raise UsageError(f"--real-count {count}: {name} has only {len(images)} images")
            raise UsageError(
                f"a fresh data loop of {generations} generations with {count} new real images each needs "
                f"{slices * count}, and {name} has {len(images)}: it lasts for {len(images) // count} generations "
                "(lower --real-count or --generations)"
            )
        order = np.random.default_rng(derived(seed, 0)).permutation(len(images))
        asked = {derived(seed, generation, _REAL): generation - 1 for generation in range(1, slices + 1)}
        self._chosen = {key: np.sort(order[index * count : (index + 1) * count]) for key, index in asked.items()}
        self._images = images.numpy()

    def __call__(self, count: int, seed: int) -> np.ndarray:
        """The slice that belongs to a seed of the loop, uint8 ``(count, C, H, W)``."""
        return self._images[self._chosen[seed]]
