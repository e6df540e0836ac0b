"""Ctrl-C and SIGTERM during a training: a step is never cut in half."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nomadiff.jobs import new_stop, stop_is_new

__all__ = ["stop_signals"]


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the block runs.

    Another signal, some seconds later, acts as usual. Outside the main thread signals are left alone.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: Any) -> None:
        if stop_is_new() and stopped:
            new_stop()
            signal.signal(number, usual[number])
            signal.raise_signal(number)
        else:
            stopped.append(number)

    new_stop()
    for number in usual:
        signal.signal(number, remember)
    try:
        yield stopped
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
