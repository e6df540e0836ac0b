"""Seeds of a loop: every draw of every generation has its own, and none is used twice."""

from __future__ import annotations

from typing import TypeVar

from nomadiff.seeding import mixed_seed

__all__ = ["Seed", "derived"]

Seed = TypeVar("Seed", int, tuple[int, ...])
"""The seed of one loop, or a tuple of seeds: one for each of several loops that are computed together."""


def derived(seed: Seed, *parts: int) -> Seed:
    """The seed for the draw named by ``parts``; of a tuple, one for each of its seeds."""
    if isinstance(seed, int):
        return mixed_seed(seed, *parts)
    return tuple(mixed_seed(one, *parts) for one in seed)
