"""Which images of a set: ``first:1000``, ``random:1000:7``, classes ``0-4,7``."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.seeding import mixed_seed

__all__ = ["parse_classes", "parse_subset", "shuffled"]

_TAG = 0x5E1EC7  # keeps the draw of a subset apart from every other use of the same seed


def shuffled(count: int, *key: int) -> np.ndarray:
    """The permutation of ``range(count)`` that belongs to ``key`` (non-negative integers): int64 ``(count,)``.

    It sorts raw Philox words, the one stream numpy promises never to change, so that a run can be resumed, and a
    subset named in a paper drawn again, with any later numpy.
    """
    words = np.random.Philox(key=mixed_seed(*key)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def parse_subset(text: str) -> Callable[[int], np.ndarray]:
    """Read ``first:N``, ``random:N`` or ``random:N:SEED`` (seed 0 unless given).

    A random subset keeps the order of the set, and a smaller one of the same seed is part of a larger one.

    Returns:
        A function from the size of a set to the chosen indices, int64, ascending. It raises UsageError if the set is
        smaller than N.

    Raises:
        UsageError: not of this form.
    """
    match = re.fullmatch(r"first:([0-9]{1,12})|random:([0-9]{1,12})(?::([0-9]{1,18}))?", text.strip())
    wanted = int(match[1] or match[2]) if match else 0
    if match is None or wanted == 0:
        raise UsageError(f"subset {text!r}: expected first:N, random:N or random:N:SEED with N at least 1")

    def choose(count: int) -> np.ndarray:
        if wanted > count:
            raise UsageError(f"subset {text}: there are only {count} images")
        if match[1]:
            return np.arange(wanted)
        return np.sort(shuffled(count, _TAG, int(match[3] or 0))[:wanted])

    return choose


def parse_classes(text: str) -> frozenset[int]:
    """Read class labels like ``3``, ``0-7`` or ``0,2,5-7`` (both ends belong to a range).

    Raises:
        UsageError: not of this form.
    """
    classes: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise UsageError(f"classes {text!r}: expected labels and ranges like 0-7 or 0,2,5-7")
        classes.update(range(low, high + 1))
    return frozenset(classes)
