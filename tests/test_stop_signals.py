"""Signals to stop: the first stops in order, whoever passes it on once more, and a later one at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nomadiff import stop_signals as module
from nomadiff.stop_signals import blocked, sigterm_as_interrupt, stop_signals


class Ended(Exception):
    pass


def end(*args: object) -> None:
    raise Ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_stop_told_twice_is_one_and_a_later_one_acts_as_usual(monkeypatch, number):
    monkeypatch.setattr(module, "_TELLING", 0.5)
    before = signal.signal(number, end)
    try:
        with stop_signals() as stopped:
            signal.raise_signal(number)
            signal.raise_signal(number)  # what srun and torchrun do
            assert stopped[0] == number
            time.sleep(0.6)
            with pytest.raises(Ended):
                signal.raise_signal(number)
        with pytest.raises(Ended):
            signal.raise_signal(number)
        with stop_signals() as stopped:  # each block begins anew
            signal.raise_signal(number)
            assert stopped == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_stop_that_is_told_again_interrupts_once(monkeypatch):
    monkeypatch.setattr(module, "_TELLING", 0.3)
    with sigterm_as_interrupt():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt) as stopped:
                signal.raise_signal(signal.SIGTERM)
            assert stopped.value.args == (signal.SIGTERM,)
            signal.raise_signal(signal.SIGTERM)  # what is saved upon the first is not cut off
            time.sleep(0.4)  # and this is long enough for the next to be another
    with sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt):  # each block begins anew
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_that_another_thread_is_told_is_held_back_too():
    """A mask is one thread's: the system gave the signal to another, and we were interrupted at once."""
    done, reached = threading.Event(), []
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt) as stopped, blocked(signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append(time.sleep(0.1))
        assert stopped.value.args == (signal.SIGTERM,) and reached
    finally:
        done.set()
        other.join()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_processes_that_are_started_meanwhile_begin_with_it_held_back():
    """And with what we ignore ignored, as a shell's background jobs ignore Ctrl-C."""
    told = "from signal import *; print(*sorted(pthread_sigmask(SIG_BLOCK, [])), getsignal(SIGINT) == SIG_IGN)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with blocked(signal.SIGTERM, signal.SIGINT):
            printed = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    finally:
        signal.signal(signal.SIGINT, before)
    assert printed.split() == ["2", "15", "True"]
