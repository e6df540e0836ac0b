"""With which shares a class-conditional model draws its classes: by default those of its training images.

The class of each sample is then drawn by :func:`nomadiff.sampling.sampler.drawn_classes`.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

import torch
from torch import Tensor

from nomadiff.data.labels import is_number, listed
from nomadiff.errors import UsageError
from nomadiff.files import printable
from nomadiff.training.config import Facts

__all__ = ["class_index", "class_weights", "stored_labels"]

_FORMS = "expected real, uniform, or shares of classes like cat=0.3,dog=0.7"


def class_index(config: Facts, class_label: int | str) -> int:
    """Index of a class in the model's vocabulary, given its name or, where classes have names, its number.

    Raises:
        UsageError: the model knows no such class.
    """
    names, text = config.vocabulary, str(class_label)
    if text in names:
        return names.index(text)
    if not all(map(is_number, names)) and is_number(text) and int(text) < len(names):
        return int(text)
    known = f"this model knows {listed(names)}" if names else "this model knows no classes"
    raise UsageError(f"class '{printable(text)}' is unknown: {known}")


def class_weights(
    config: Facts, source: int = 0, *, class_label: int | str | None = None, classes: str | None = None
) -> tuple[int, ...]:
    """How often each class of the vocabulary is drawn, relative to the others; empty for a model without classes.

    Args:
        config: what is known of the model.
        source: label of the source to draw; without source labels the real source's images count.
        class_label: the one class to draw, by name or number.
        classes: "real", as often as the training images of the source have them; "uniform" over those they have; or
            shares of some classes, ``cat=0.3,dog=0.1``, the others sharing the rest as in "real". None is "real", or
            uniform for a model that does not say what it was trained on.

    Raises:
        UsageError: an unknown class, one the source was not trained on, shares that make no sense, or "real" of a
            model that does not say.
    """
    if class_label is not None and classes is not None:
        raise UsageError("one class is asked for, and a choice of classes: leave one of them out")
    if not config.classes:
        if class_label is not None or classes is not None:
            raise UsageError("this model knows no classes: it cannot be asked for one")
        return ()
    counts = config.class_counts[source if config.sources else 0] if config.class_counts else None
    if class_label is not None:
        # without source labels the network learned classes from all sources alike
        seen = counts if config.sources else [sum(column) for column in zip(*config.class_counts)]
        index = class_index(config, class_label)
        _check_trained(config, source, index, seen or None)
        return tuple(int(number == index) for number in range(config.classes))
    if classes == "real" and counts is None:
        raise UsageError("this model does not say which classes its training images had: choose --classes uniform")
    found = counts or (1,) * config.classes
    if classes in (None, "real"):
        weights = list(found)
    elif classes == "uniform":
        weights = [int(count > 0) for count in found]
    else:
        assert classes is not None
        shares = _shares(config, source, classes, found, counts)
        scale = math.lcm(*(share.denominator for share in shares))
        weights = [int(share * scale) for share in shares]
    common = math.gcd(*weights)
    return tuple(weight // common for weight in weights)


def stored_labels(config: Facts, indices: Tensor) -> Tensor:
    """The labels a sample set is stored with: numbers where classes are known by them, else indices of the names."""
    if config.stored_class_names is not None:
        return indices
    return torch.tensor([int(name) for name in config.vocabulary])[indices]


def _shares(
    config: Facts, source: int, text: str, found: tuple[int, ...], counts: tuple[int, ...] | None
) -> list[Fraction]:
    asked: dict[int, Fraction] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.rpartition("="))
        if not equals or not name or not re.fullmatch(r"[01]?(\.[0-9]{1,6})?", value) or not value:
            raise UsageError(f"classes '{printable(text)}': {_FORMS}")
        index = class_index(config, name)
        _check_trained(config, source, index, counts)
        if index in asked:
            raise UsageError(f"class '{printable(name)}' is named twice")
        asked[index] = Fraction(value)
    others = [0 if index in asked else count for index, count in enumerate(found)]
    left, total = 1 - sum(asked.values()), sum(others)
    if left < 0 or (left > 0 and not total):
        why = "there are no other classes" if left > 0 else "more than 1"
        raise UsageError(f"the shares of classes sum to {float(1 - left):g}: {why}")
    return [asked.get(index, left * Fraction(count, total or 1)) for index, count in enumerate(others)]


def _check_trained(config: Facts, source: int, index: int, counts: tuple[int, ...] | list[int] | None) -> None:
    if counts is not None and not counts[index]:
        name, origin = printable(config.vocabulary[index]), config.source_names[source]
        raise UsageError(f"class '{name}' was not trained: no image of the source '{origin}' has it")
