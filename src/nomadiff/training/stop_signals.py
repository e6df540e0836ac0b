"""Ctrl-C and SIGTERM during a training: a step is never cut in half."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["stop_signals"]

_ONE = 2.0  # seconds in which a signal is the same one: a scheduler tells all processes, torchrun tells its own again


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the block runs.

    Another signal of the same kind, some seconds later, acts as usual. Outside the main thread signals are left alone.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    first: dict[int, float] = {}

    def remember(number: int, frame: Any) -> None:
        now = time.monotonic()
        if now - first.setdefault(number, now) < _ONE:
            stopped.append(number)
        else:
            signal.signal(number, usual[number])
            signal.raise_signal(number)

    for number in usual:
        signal.signal(number, remember)
    try:
        yield stopped
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
