"""Signals during a training: the first stops it in order, whoever passes it on once more, and a later one at once."""

from __future__ import annotations

import signal
import time

import pytest

from nomadiff import jobs
from nomadiff.training.stop_signals import stop_signals


class Ended(Exception):
    pass


def end(*args: object) -> None:
    raise Ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_stop_told_twice_is_one_and_a_later_one_acts_as_usual(monkeypatch, number):
    monkeypatch.setattr(jobs, "_TELLING", 0.5)
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
