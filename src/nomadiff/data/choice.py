"""Which part of a file is meant: ``set.npz#images=photos``, ``hf:user/set:test#config=small,images=image``.

A file or data set may hold several arrays or columns of images. Then none is taken until one is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nomadiff.errors import UsageError
from nomadiff.files import printable

__all__ = ["Choice", "parse_choice", "parse_named"]

_MEANING = "images=NAME, labels=NAME (or none) and, of a hub data set, config=NAME"


@dataclass(frozen=True)
class Choice:
    """Where images are, and which of them are meant.

    Attributes:
        location: path, or ``hf:<data set id>[:split]``.
        images: array or column of the images; None where there is only one.
        labels: array or column of the class labels, ``"none"`` to read none; None where there is at most one.
        config: configuration of a hub data set; None for its default.
    """

    location: str
    images: str | None = None
    labels: str | None = None
    config: str | None = None

    def refuse(self, *names: str) -> None:
        """Raise UsageError if one of these fields was given, for a kind of set that has no such thing."""
        if given := next((name for name in names if getattr(self, name) is not None), None):
            raise UsageError(f"{self.location} has no {given} to choose; leave out #{given}={getattr(self, given)}")

    def one_of(self, what: str, found: list[str]) -> str | None:
        """The name that was chosen as ``what``, or the only one there is; None if there is none.

        Raises:
            UsageError: several and none chosen; the message names them.
        """
        chosen = getattr(self, what)
        if chosen is not None or len(found) < 2:
            return chosen or next(iter(found), None)
        more = " (or none)" if what == "labels" else ""
        names = ", ".join(map(printable, found))
        raise UsageError(
            f"{self.location}: {names} could all be the {what}; "
            f"name one{more}: {self.location}#{what}={printable(found[0])}"
        )


def parse_choice(spec: str) -> Choice:
    """Split ``LOCATION[#images=NAME][,labels=NAME][,config=NAME]``. What exists under the whole text is a location.

    Raises:
        UsageError: something else behind the ``#``.
    """
    location, mark, tail = spec.rpartition("#")
    if not mark or "=" not in tail or "/" in tail or (not spec.startswith("hf:") and Path(spec).exists()):
        return Choice(spec)
    found: dict[str, str] = {}
    for part in tail.split(","):
        match = re.fullmatch(r"(images|labels|config)=(.+)", part.strip())
        if match is None or match[1] in found:
            raise UsageError(f"{spec}: behind # stand {_MEANING}")
        found[match[1]] = match[2]
    return Choice(location, **found)


def parse_named(spec: str) -> tuple[str | None, str]:
    """Split ``[name=]path``: the name, or None, and the path.

    What exists under the whole text is a path, and so is anything whose part before ``=`` could not be a name
    (``runs/lr=0.1/samples``).

    Raises:
        UsageError: nothing after ``name=``.
    """
    name, equals, path = spec.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or Path(spec).exists():
        return None, spec
    if not path:
        raise UsageError(f"{spec!r}: expected name=path")
    return name, path
