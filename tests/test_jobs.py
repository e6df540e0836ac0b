"""The one pool of processes: every job's result once, and an end in order when a job fails or a signal comes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from nomadiff.errors import DataError, NomadiffError
from nomadiff.jobs import in_processes


def double(number: int) -> tuple[int, int, str]:
    import torch

    return 2 * number, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


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


def test_every_result_once_in_processes_of_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    waited = []
    results = dict(in_processes(double, [(number,) for number in range(7)], 2, while_waiting=lambda: waited.append(1)))
    assert results == {(number,): (2 * number, 1, "1") for number in range(7)}
    assert waited and "OMP_NUM_THREADS" not in os.environ


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_failure_stops_the_others_in_order(tmp_path):
    with pytest.raises(DataError, match="job 0 is bad"):
        list(in_processes(waits_for_a_signal, [(9, tmp_path), (0, tmp_path), (1, tmp_path)], 3))
    assert (tmp_path / "saved").read_text() == "1"


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


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_job_that_is_stopped_is_told_and_none_begins_after_it(tmp_path):
    with pytest.raises(DataError, match="job 0 is bad"):
        list(in_processes(sleeps, [(number, tmp_path) for number in range(6)], 2))
    assert (tmp_path / "stopped").exists()
    assert not (tmp_path / "begun-3").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_error_of_the_reader_stops_the_workers(tmp_path):
    def failing() -> None:
        if (tmp_path / "begun").exists():
            raise RuntimeError("the reader failed")

    keys = [(1, tmp_path), (2, tmp_path)]
    with (
        pytest.raises(RuntimeError, match="the reader failed"),
        closing(in_processes(waits_for_a_signal, keys, 2, while_waiting=failing)) as results,
    ):
        list(results)
    assert (tmp_path / "saved").read_text() == "1"


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_worker_that_ends_early_is_one_line():
    with pytest.raises(NomadiffError, match="a worker process ended early"):
        list(in_processes(dies, [(0,), (1,)], 2))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_to_the_parent_stops_the_workers_in_order(tmp_path):
    code = (
        "import pathlib, test_jobs\n"
        "from nomadiff.jobs import in_processes\n"
        "if __name__ == '__main__':\n"
        f"    folder = pathlib.Path({str(tmp_path)!r})\n"
        "    try:\n"
        "        list(in_processes(test_jobs.waits_for_a_signal, [(1, folder), (2, folder)], 2))\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    (tmp_path / "main.py").write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "main.py"], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE
    )
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    parent.terminate()
    out, _ = parent.communicate(timeout=60)
    assert out == b"stopped\n" and (tmp_path / "saved").read_text() == "1"
