"""Output of verbs to a terminal: text only. Names in files may hold control characters, which are escaped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from nomadiff.files import printable
from nomadiff.progress import plain_warnings

__all__ = ["plain_output"]


class _Plain:
    """A text stream whose control characters are escaped, but for the ends of lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write("\n".join(map(printable, text.split("\n"))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output(stream: TextIO) -> Iterator[None]:
    """While the block runs, what is printed is plain and goes to ``stream``.

    Warnings of nomadiff's own are one message, not a trace, and told once.
    """
    with warnings.catch_warnings(), redirect_stdout(_Plain(stream)):
        warnings.showwarning = plain_warnings()
        yield
