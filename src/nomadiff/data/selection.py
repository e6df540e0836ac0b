"""Which images of a set: ``first:1000``, ``range:1000:2000``, ``random:1000:7``, ``each:125``, classes ``0-4,cat``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from nomadiff.data.labels import Labels, class_names_of, listed
from nomadiff.errors import UsageError
from nomadiff.files import printable
from nomadiff.seeding import mixed_seed

__all__ = ["Part", "of_classes", "parse_classes", "parse_subset", "shuffled"]

_TAG = 0x5E1EC7  # keeps the draw of a subset apart from every other use of the same seed


def shuffled(count: int, *key: int) -> np.ndarray:
    """The permutation of ``range(count)`` that belongs to ``key`` (non-negative integers): int64 ``(count,)``.

    It sorts raw Philox words, the one stream numpy promises never to change, so that a run can be resumed, and a
    subset named in a paper drawn again, with any later numpy.
    """
    words = np.random.Philox(key=mixed_seed(*key)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


_SUBSET = re.compile(
    r"first:(?P<first>[0-9]{1,12})"
    r"|range:(?P<start>[0-9]{1,12}):(?P<stop>[0-9]{1,12})"
    r"|random:(?P<random>[0-9]{1,12})(?::(?P<seed>[0-9]{1,18}))?"
    r"|each:(?P<each>[0-9]{1,12})"
)


def parse_subset(text: str) -> Callable[[int, np.ndarray | None], np.ndarray]:
    """Read ``first:N``, ``range:START:STOP``, ``random:N``, ``random:N:SEED`` (seed 0 unless given) or ``each:N``.

    ``range`` counts from 0 and leaves STOP out; ``each`` takes the first N images of every class. A random subset keeps
    the order of the set, and a smaller one of the same seed is part of a larger one.

    Returns:
        A function from the size of a set and its labels (int64, or None) to the chosen indices, int64, ascending. It
        raises UsageError if the set has too few images, or no labels where they are needed.

    Raises:
        UsageError: not of this form.
    """
    match = _SUBSET.fullmatch(text.strip())
    given = {name: int(value) for name, value in match.groupdict().items() if value is not None} if match else {}
    wanted = given["stop"] - given["start"] if "stop" in given else next(iter(given.values()), 0)
    if wanted < 1:
        raise UsageError(
            f"subset {text!r}: expected first:N, range:START:STOP, random:N, random:N:SEED or each:N, at least 1 image"
        )

    def choose(count: int, labels: np.ndarray | None = None) -> np.ndarray:
        if "each" in given:
            if labels is None:
                raise UsageError(f"subset {text}: these images have no class labels")
            order = np.argsort(labels, kind="stable")
            sizes = np.unique(labels, return_counts=True)[1]
            if sizes.min() < wanted:
                raise UsageError(f"subset {text}: a class has only {sizes.min()} images")
            starts = np.cumsum(sizes) - sizes
            return np.sort(order[(starts[:, None] + np.arange(wanted)).ravel()])
        last = given.get("stop", wanted)
        if last > count:
            raise UsageError(f"subset {text}: there are only {count} images")
        if "random" in given:
            return np.sort(shuffled(count, _TAG, given.get("seed", 0))[:wanted])
        return np.arange(given.get("start", 0), last)

    return choose


def parse_classes(text: str) -> dict[str, bool]:
    """Read classes like ``3``, ``0-7``, ``0,2,5-7`` (both ends belong to a range) or ``cat,dog``: their names, and
    whether each must be there. A range may be wider than the classes are.

    Raises:
        UsageError: not of this form.
    """
    classes: dict[str, bool] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if low > high or not part.strip():
            raise UsageError(f"classes {text!r}: expected names, labels and ranges like cat,dog or 0,2,5-7")
        wide = match is not None and match[2] is not None
        named = map(str, range(low, high + 1)) if wide else [part.strip()]  # one name stays as written: 01 is not 1
        classes |= {name: not wide or classes.get(name, False) for name in named}
    return classes


def of_classes(labels: np.ndarray, names: Sequence[str] | None, wanted: Mapping[str, bool], where: str) -> np.ndarray:
    """The images whose class is wanted: indices, int64, ascending.

    What is wanted is a name, or else a number: that of names that are written in digits, such as 01, or of the labels
    where no name is.

    Args:
        labels: int64 ``(N,)``.
        names: name of label ``k`` at index ``k``; None if classes are known by their numbers.
        wanted: of :func:`parse_classes`.
        where: for messages.

    Raises:
        UsageError: no such class.
    """
    classes = class_names_of(labels, names)
    numbers = np.unique(labels).tolist()
    in_digits = {name: name for name in classes if re.fullmatch("[0-9]+", name)}
    numbered: dict[str, list[str]] = {}
    for name, digits in (in_digits or dict(zip(classes, map(str, numbers)))).items():
        numbered.setdefault(_without_zeros(digits), []).append(name)
    meant = {text: [text] if text in classes else numbered.get(_without_zeros(text), []) for text in wanted}
    if absent := sorted(text for text, needed in wanted.items() if needed and not meant[text]):
        raise UsageError(f"{where}: no class '{printable(absent[0])}'; there are {listed(classes)}")
    names_kept = set(chain.from_iterable(meant.values()))
    kept = [number for number, name in zip(numbers, classes) if name in names_kept]
    if not kept:
        raise UsageError(f"{where}: no image has a class among those asked for; there are {listed(classes)}")
    return np.flatnonzero(np.isin(labels, kept))


def _without_zeros(digits: str) -> str:
    return digits.lstrip("0") or "0"


@dataclass(frozen=True)
class Part:
    """A part of a set, chosen by its labels and places alone: what is not chosen need not be read.

    Attributes:
        classes: keep only these, see :func:`parse_classes`; None keeps all.
        subset: of what is left then, see :func:`parse_subset`; None keeps all.

    Raises:
        UsageError: one of them is not of its form.
    """

    classes: str | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            parse_classes(self.classes)
        if self.subset is not None:
            parse_subset(self.subset)

    @property
    def steps(self) -> list[str]:
        """What was chosen, in order, for a record of it."""
        classes = [] if self.classes is None else [f"classes:{self.classes}"]
        return [*classes, *([] if self.subset is None else [self.subset])]

    def indices(self, count: int, labels: Labels, where: str) -> np.ndarray | None:
        """Places of the chosen images: int64, ascending; None for all of them.

        Args:
            count: images of the set.
            labels: theirs.
            where: the set, for messages.

        Raises:
            UsageError: the set has no labels where they are needed, no such class, or too few images.
        """
        chosen = np.arange(count)
        if self.classes is not None:
            if labels.numbers is None:
                why = f" ({labels.absent})" if labels.absent else ""
                raise UsageError(f"{where}: has no class labels to choose from{why}")
            chosen = of_classes(labels.numbers, labels.names, parse_classes(self.classes), where)
        if self.subset is not None:
            left = None if labels.numbers is None else labels.numbers[chosen]
            chosen = chosen[parse_subset(self.subset)(len(chosen), left)]
        return None if len(chosen) == count else chosen
