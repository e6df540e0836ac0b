"""What the workers of test_jobs do; a module that a new process can import."""

import os
import signal
import time
import warnings
from pathlib import Path

from nomadiff.errors import DataError, Interrupted, NomadiffWarning


def double(number: int) -> tuple[int, int, str]:
    import torch

    return 2 * number, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def long_work(number: int) -> int:
    """A job that takes longer than a minute, as far as its progress can tell."""
    from nomadiff import progress

    progress._FIRST = 0.0
    with progress.progress_bar(f"job {number}", 10) as advance:
        advance(1)
    return number


def warn(number: int) -> None:
    """The same twice, as a folder does that is read for every seed."""
    for _ in range(2):
        warnings.warn("photos: 1 file left out:\n  a.jpg", NomadiffWarning, stacklevel=1)


def waits_for_a_signal(number: int, folder: Path) -> None:
    """Job 0 fails once job 1 has begun, job 9 ends at once; the others write down how often they are told to stop."""
    if number == 9:
        return
    if number == 0:
        while not (folder / "begun").exists():
            time.sleep(0.05)
        raise DataError("job 0 is bad")
    signals = []
    signal.signal(signal.SIGTERM, lambda *args: signals.append(1))
    (folder / "begun").touch()
    deadline = time.monotonic() + 60
    while not signals and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # a training saves its state: a second signal would cut it off
    (folder / "saved").write_text(str(len(signals)))


def dies(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(number: int, folder: Path) -> None:
    (folder / f"begun-{number}").touch()
    if number == 0:
        while not (folder / "begun-1").exists():
            time.sleep(0.05)
        raise DataError("job 0 is bad")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "stopped").touch()
        raise


def gives_back(number: int, folder: Path) -> None:
    """Told to stop, it takes a moment to leave things in order."""
    try:
        (folder / f"begun-{number}").touch()
        time.sleep(60)
    finally:
        time.sleep(0.5)
        (folder / f"given-back-{number}").touch()


def trains(seconds: float, folder: Path) -> None:
    """As a training does: told to stop it takes its time to save its state, and then says that it was stopped."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    (folder / f"begun-{seconds}").touch()
    deadline = time.monotonic() + 60
    while not signals and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    (folder / f"saved-{seconds}").write_text(str(len(signals)))
    raise Interrupted("state saved", signal.SIGTERM)
