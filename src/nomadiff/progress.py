"""Progress of long work: a bar with throughput and time left on a terminal, nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nomadiff.files import printable

__all__ = ["progress_bar"]

Advance = Callable[..., None]


@contextmanager
def progress_bar(
    description: str, total: float, unit: str = "images", done: int = 0, show: bool = True
) -> Iterator[Advance]:
    """Show one progress bar on standard error while the block runs; gives ``advance(count, note="")``.

    Args:
        description: what is being done, a few words.
        total: amount of work, in ``unit``.
        unit: what is counted; the speed is printed as ``unit``/s.
        done: how much was done before (a resumed run): it moves the bar, not the speed.
        show: False for the processes that must stay silent.
    """
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

    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield lambda count=1, note="": None
        return
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
        task = bar.add_task(printable(description), total=total, completed=done, note="")

        def advance(count: float = 1, note: str = "") -> None:
            bar.update(task, advance=count, note=printable(note))

        yield advance
