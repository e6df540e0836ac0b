"""Progress of long work: a bar with throughput and time left on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

from nomadiff.errors import NomadiffWarning
from nomadiff.files import printable

__all__ = ["QUIET", "duration_text", "plain_warnings", "progress_bar", "say", "say_error"]

QUIET = "NOMADIFF_QUIET"
"""Environment variable that silences progress, here and in worker processes; what ``--quiet`` sets."""

Advance = Callable[..., None]
Note = str | Callable[[], str]

_FIRST, _EVERY = 10.0, 60.0  # seconds until the first line, and between lines, where there is no terminal
_NOTED = 5.0  # seconds between notes that have to be computed, on a terminal


@contextmanager
def progress_bar(
    description: str, total: float, unit: str = "images", done: int = 0, show: bool = True
) -> Iterator[Advance]:
    """Show on standard error how far the block is; gives ``advance(count, note="")``.

    On a terminal this is a bar. Elsewhere (a log file, a scheduler's output) it is a line after ten seconds and then at
    most one a minute; worker processes are silent there, since their parent tells of all.

    ``note`` is a text, or a function that makes one and is called as seldom as the note is shown.

    Args:
        description: what is being done, a few words.
        total: amount of work, in ``unit``.
        unit: what is counted; the speed is printed as ``unit``/s.
        done: how much was done before (a resumed run): it moves the bar, not the speed.
        show: False for the processes that must stay silent.
    """
    from rich.console import Console

    console = Console(stderr=True)
    show = show and not os.environ.get(QUIET)
    if show and console.is_terminal:
        with _bar(console, description, total, unit, done) as advance:
            yield advance
    elif show and parent_process() is None:
        yield _Lines(description, total, unit, done).advance
    else:
        yield lambda count=1, note="": None


def plain_warnings() -> Callable[..., None]:
    """What ``warnings.showwarning`` is to be: a warning of nomadiff's own is one message and no trace, told once."""
    show, told = warnings.showwarning, set[str]()

    def showwarning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, NomadiffWarning):
            show(message, category, *where, **more)
        elif str(message) not in told:  # a folder that is read for every seed has the same to say every time
            told.add(str(message))
            say_error(str(message))

    return showwarning


def say_error(text: str) -> None:
    """Print ``nomadiff: text`` on standard error; the lines of a warning stay lines."""
    print("nomadiff: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print one line on standard error, beside the progress of what is being done."""
    if not os.environ.get(QUIET):
        print(printable(text), file=sys.stderr, flush=True)


_DAY, _YEAR = 86400, 365.25 * 86400
_DURATIONS = ((2 * _YEAR, _YEAR, "years", 1), (2 * _DAY, _DAY, "days", 1), (3600, 3600, "h", 1), (60, 60, "min", 0))


def duration_text(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``, ``3.4 years``."""
    for least, size, unit, digits in _DURATIONS:
        if seconds >= least:
            return f"{seconds / size:,.{digits}f} {unit}"
    return f"{seconds:.0f} s"


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self._description, self._total, self._unit, self._done = description, total, unit, done
        self._before, self._begun = done, time.monotonic()
        self._next = self._begun + _FIRST

    def advance(self, count: float = 1, note: Note = "") -> None:
        self._done += count
        now = time.monotonic()
        if now < self._next or self._done >= self._total:
            return
        self._next = now + _EVERY
        parts = [f"{self._done:,.0f} of {self._total:,.0f} {self._unit}"]
        if (speed := (self._done - self._before) / (now - self._begun)) > 0:
            parts.append(f"{speed:,.4g} {self._unit}/s")
            parts.append(f"{duration_text((self._total - self._done) / speed)} left")
        if told := note if isinstance(note, str) else note():
            parts.append(told)
        say(f"{self._description}: {', '.join(parts)}")


@contextmanager
def _bar(console: object, description: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.4g} {unit}/s")

    assert isinstance(console, Console)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(printable(description), total=total, completed=int(done), note="")
        noted = 0.0

        def advance(count: float = 1, note: Note = "") -> None:
            nonlocal noted
            if isinstance(note, str):
                bar.update(task, advance=count, note=printable(note))
            elif time.monotonic() - noted < _NOTED:
                bar.update(task, advance=count)
            else:
                noted = time.monotonic()
                bar.update(task, advance=count, note=printable(note()))

        yield advance
