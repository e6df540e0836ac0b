"""Output of verbs to a terminal: text only. Names in files may hold control characters, which are escaped."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from nomadiff.errors import NomadiffWarning
from nomadiff.files import printable

__all__ = ["plain_output", "say_error"]


class _Plain:
    """A text stream whose control characters are escaped, but for the ends of lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write("\n".join(map(printable, text.split("\n"))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say_error(text: str) -> None:
    """Print ``nomadiff: text`` on standard error; the lines of a warning stay lines."""
    print("nomadiff: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


@contextmanager
def plain_output(stream: TextIO) -> Iterator[None]:
    """While the block runs, what is printed is plain and goes to ``stream``.

    Warnings of nomadiff's own are one message, not a trace.
    """
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NomadiffWarning):
            say_error(str(message))
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings(), redirect_stdout(_Plain(stream)):
        warnings.showwarning = tell
        yield
