"""Prompt grids: every attribute with every other, in every template; files in TOML, two of them shipped.

.. code-block:: toml

    templates = ["a photo of {animal}, {light}"]
    negative = "drawing"       # optional, for pipelines that take one
    label = "animal"           # optional: the attribute that is the image's class

    [attributes]
    animal = ["a cat", "a dog"]
    light = ["in daylight", "at dusk"]
"""

from __future__ import annotations

import hashlib
import json
import string
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_regular

__all__ = ["SHIPPED", "Prompt", "PromptGrid"]

SHIPPED = ("faces", "class-names")
_MOST_PROMPTS = 10_000_000


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: the pipeline's prompt.
        attributes: the values in it, by name.
        label: its class, or None.
    """

    text: str
    attributes: dict[str, str]
    label: int | None


@dataclass(frozen=True)
class PromptGrid:
    """All combinations of attributes and templates.

    Attributes:
        name: what manifests call it.
        templates: texts with attribute names in braces.
        attributes: values of each attribute.
        negative: what to avoid; empty for nothing.
        label: the attribute whose values are the classes, or None.
    """

    name: str
    templates: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]
    negative: str = ""
    label: str | None = None

    @classmethod
    def read(cls, source: str | Path) -> PromptGrid:
        """Read a grid from a file, or a shipped one by its name.

        Raises:
            UsageError: no such file or name.
            DataError: the file is not a prompt grid; the message says why.
        """
        path = Path(source)
        if str(source) in SHIPPED and not path.exists():
            text = files("nomadiff.interop").joinpath(f"grids/{source}.toml").read_text(encoding="utf-8")
        else:
            try:
                text = read_regular(path).decode("utf-8")
            except FileNotFoundError as error:
                raise UsageError(f"{source}: no such file; shipped grids are {', '.join(SHIPPED)}") from error
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        try:
            values = tomllib.loads(text)
            return cls._from_values(path.stem, values)
        except (tomllib.TOMLDecodeError, DataError) as error:
            raise DataError(f"{source}: {error}") from error

    @classmethod
    def _from_values(cls, name: str, values: dict[str, Any]) -> PromptGrid:
        if unknown := sorted(values.keys() - {"templates", "attributes", "negative", "label"}):
            raise DataError(f"unknown entry {', '.join(unknown)} (known: templates, attributes, negative, label)")
        templates = _texts(values.get("templates"), "templates")
        table = values.get("attributes", {})
        if not isinstance(table, dict):
            raise DataError("attributes must be a table of lists")
        attributes = {key: _texts(listed, f"attribute {key}") for key, listed in table.items()}
        negative, label = values.get("negative", ""), values.get("label")
        if not isinstance(negative, str):
            raise DataError("negative must be a text")
        if label is not None and label not in attributes:
            raise DataError(f"label names the attribute {label!r}, which does not exist")
        for template in templates:
            try:
                fields = [part for part in string.Formatter().parse(template) if part[1] is not None]
            except ValueError as error:
                raise DataError(f"template {template!r}: {error}") from error
            if any(form or conversion for _, _, form, conversion in fields):
                raise DataError(f"template {template!r}: only plain {{names}} are understood")
            used = {str(field) for _, field, _, _ in fields}
            if missing := sorted(used - attributes.keys()):
                raise DataError(f"template {template!r} uses {', '.join(missing)}, which is no attribute")
            if label is not None and label not in used:
                raise DataError(f"template {template!r} does not say its class, {{{label}}}")
        grid = cls(name, templates, attributes, negative, label)
        if len(grid) > _MOST_PROMPTS:
            raise DataError(f"spans more than {_MOST_PROMPTS:,} prompts")
        return grid

    @cached_property
    def _combinations(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every template with the names of its attributes, so that values it does not use do not repeat it."""
        return [
            (template, tuple(dict.fromkeys(f for _, f, _, _ in string.Formatter().parse(template) if f)))
            for template in self.templates
        ]

    @cached_property
    def _sizes(self) -> list[int]:
        return [int(np.prod([len(self.attributes[name]) for name in used])) for _, used in self._combinations]

    def __len__(self) -> int:
        return sum(self._sizes)

    def prompt(self, number: int) -> Prompt:
        """Prompt ``number`` of the grid, in reading order: 0 .. ``len(grid) - 1``."""
        for (template, used), size in zip(self._combinations, self._sizes):
            if number >= size:
                number -= size
                continue
            values = {}
            for name in reversed(used):
                number, place = divmod(number, len(self.attributes[name]))
                values[name] = self.attributes[name][place]
            label = None if self.label is None else self.attributes[self.label].index(values[self.label])
            return Prompt(template.format(**values), dict(reversed(values.items())), label)
        raise IndexError(number)

    def order(self, seed: int) -> np.ndarray:
        """The prompts in shuffled order, int64: image ``i`` has prompt ``order[i % len(grid)]``.

        So the first images span the grid evenly, and every prompt is used once before any is used twice.
        """
        return np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64))).permutation(len(self))

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides the prompts."""
        content = [self.templates, {name: list(values) for name, values in self.attributes.items()}]
        return hashlib.sha256(json.dumps([content, self.negative, self.label], sort_keys=True).encode()).hexdigest()


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise DataError(f"{what} must be a list of texts")
    if len(set(value)) < len(value):
        raise DataError(f"{what} lists something twice")
    return tuple(value)
