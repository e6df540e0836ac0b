"""Shared fixtures: caches of the session's own, and simulated kills."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from standing_pair import StandingPair

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton reads it when it is imported

os.fsync = lambda descriptor: None  # no test cuts the power, and a disk takes ten milliseconds for each of thousands

# read once, when huggingface_hub is imported; online, each file that is not there is asked for until patience is over
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir(), "nomadiff-tests-hub"))  # not what the user has fetched


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Downloads and features go to a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOMADIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory):
    """``two_processes(*words)``: a command or script in two processes that torchrun started; gives what they print."""
    pair = StandingPair(tmp_path_factory.mktemp("pair"))
    yield pair
    assert pair.close() in (None, 0)


@pytest.fixture
def few_steps():
    """The preset digits draws in 3 steps, not in 18: for tests that compare what this process draws with itself."""
    import factories  # not at the top: it imports triton, which reads TRITON_INTERPRET

    with factories.few_steps():
        yield


class Killed(BaseException):
    """Instead of SIGKILL: nothing catches it (``scripts/kill_at_every_write.py`` sends real ones)."""


@pytest.fixture
def killed_at_write():
    """``killed_at_write(number, after, work)``: run ``work`` until just before or after its file of this number gets
    its name, counted from 1; returns whether it came that far."""

    def run(number: int, after: bool, work: Callable[[], Any]) -> bool:
        replace, count = os.replace, itertools.count(1)

        def failing(old: Any, new: Any) -> None:
            here = next(count) == number
            if not here or after:
                replace(old, new)
            if here:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", failing)
            try:
                work()
            except Killed:
                return True
        return False

    return run


class Stop(KeyboardInterrupt):
    """The interruption that :func:`stop_after` makes."""


@pytest.fixture(scope="session")
def stop_after() -> Callable[..., None]:
    """Makes a function interrupt the program right after so many of its calls."""

    def patch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
        original, count = getattr(owner, name), [0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            count[0] += 1
            if count[0] == calls:
                raise Stop
            return result

        monkeypatch.setattr(owner, name, counted)

    return patch
