"""Ctrl-C and SIGTERM: told once whoever passes them on, held back where they would tear something.

A terminal tells all processes of Ctrl-C, a scheduler all of SIGTERM, and a parent its children what it was told: within
a moment that is one signal.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["blocked", "new_stop", "sigterm_as_interrupt", "stop_is_new", "stop_signals"]

_TELLING = 2.0  # seconds in which a signal to stop is the same one


class _Stop:
    """When this process was told to stop."""

    told = -math.inf


def stop_is_new() -> bool:
    """Whether the signal that is being handled is not the one of a moment ago, told again.

    A second interrupt would cut off what the first one began: states that are saved, claims that are given back.
    """
    if time.monotonic() - _Stop.told < _TELLING:
        return False
    _Stop.told = time.monotonic()
    return True


def new_stop() -> None:
    """From now on the next signal to stop is a new one."""
    _Stop.told = -math.inf


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While children work, SIGTERM ends them in order, as Ctrl-C does; the interrupt's argument is the signal.

    Told twice within a moment (:func:`stop_is_new`) it interrupts once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        if stop_is_new():
            raise KeyboardInterrupt(number)

    new_stop()
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the block runs, such as a training's step, which is never cut in half.

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


@contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Hold these signals back while the block runs; processes that are started meanwhile begin so.

    Outside the main thread only the second: Python handles signals in the main thread.
    """
    with ExitStack() as undone:
        if threading.current_thread() is threading.main_thread():
            undone.enter_context(_put_off(numbers))
        if hasattr(signal, "pthread_sigmask"):  # what the processes take over
            before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
            undone.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        yield


@contextmanager
def _put_off(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Handle these signals after the block: of those that one thread masks, the system tells another."""
    came: list[int] = []

    def handle() -> None:
        for number in dict.fromkeys(came):
            signal.raise_signal(number)

    usual = {number: signal.getsignal(number) for number in numbers}
    with ExitStack() as undone:
        undone.callback(handle)
        for number, handler in usual.items():
            if handler not in (signal.SIG_IGN, None):  # what we ignore, new processes ignore; None is not ours
                signal.signal(number, lambda told, frame: came.append(told))
                undone.callback(signal.signal, number, handler)
        yield
