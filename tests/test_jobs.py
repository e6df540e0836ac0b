"""The one pool of processes: every job's result once, and an end in order when a job fails or a signal comes."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import pytest

from nomadiff.errors import DataError, Interrupted, NomadiffError, UsageError
from nomadiff.jobs import in_processes, usable_cores

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def work(monkeypatch):
    """The module of the workers' functions, importable here and in new processes."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("jobs_of_a_pool")


def test_every_result_once_in_processes_of_one_thread(monkeypatch, work):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    waited = []
    results = dict(
        in_processes(work.double, [(number,) for number in range(7)], 2, while_waiting=lambda: waited.append(1))
    )
    assert results == {(number,): (2 * number, 1, "1") for number in range(7)}
    assert waited and "OMP_NUM_THREADS" not in os.environ


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_failure_stops_the_others_in_order(tmp_path, work):
    with pytest.raises(DataError, match="job 0 is bad"):
        list(in_processes(work.waits_for_a_signal, [(9, tmp_path), (0, tmp_path), (1, tmp_path)], 3))
    assert (tmp_path / "saved").read_text() == "1"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_job_that_is_stopped_is_told_and_none_begins_after_it(tmp_path, work):
    with pytest.raises(DataError, match="job 0 is bad"):
        list(in_processes(work.sleeps, [(number, tmp_path) for number in range(6)], 2))
    assert (tmp_path / "stopped").exists()
    assert not (tmp_path / "begun-3").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_every_training_saves_its_state_when_the_first_has_saved_its_own(tmp_path, work):
    """The pool reads what the first one raised; were it not readable, the pool would end the others at once."""

    def stop_once_all_have_begun() -> None:
        if len(list(tmp_path.glob("begun-*"))) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    keys = [(0.1, tmp_path), (2.0, tmp_path)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        list(in_processes(work.trains, keys, 2, while_waiting=stop_once_all_have_begun))
    assert stopped.value.args == (signal.SIGTERM,)
    assert [(tmp_path / f"saved-{seconds}").read_text() for seconds, _ in keys] == ["1", "1"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_workers_that_a_scheduler_and_their_parent_tell_to_stop_end_in_order(tmp_path, work):
    """SLURM signals every process of a job, and the parent passes on what it was told."""

    def stop_all_once_they_have_begun() -> None:
        if len(list(tmp_path.glob("begun-*"))) == 2:
            for process in (*active_children(), None):
                os.kill(os.getpid() if process is None else process.pid, signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        keys = [(number, tmp_path) for number in (1, 2)]
        list(in_processes(work.gives_back, keys, 2, while_waiting=stop_all_once_they_have_begun))
    assert {path.name for path in tmp_path.glob("given-back-*")} == {"given-back-1", "given-back-2"}


@pytest.mark.parametrize("error", [NomadiffError("a"), UsageError("a"), DataError("a"), Interrupted("a", 15)])
def test_errors_pass_from_process_to_process(error):
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error) and str(other) == "a" and other.exit_code == error.exit_code


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_error_of_the_reader_stops_the_workers(tmp_path, work):
    def failing() -> None:
        if (tmp_path / "begun").exists():
            raise RuntimeError("the reader failed")

    keys = [(1, tmp_path), (2, tmp_path)]
    with (
        pytest.raises(RuntimeError, match="the reader failed"),
        closing(in_processes(work.waits_for_a_signal, keys, 2, while_waiting=failing)) as results,
    ):
        list(results)
    assert (tmp_path / "saved").read_text() == "1"


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_worker_that_ends_early_is_one_line(work):
    with pytest.raises(NomadiffError, match="a worker process ended early"):
        list(in_processes(work.dies, [(0,), (1,)], 2))


def started(code, folder, **options):
    """A Python process that runs ``code``, with the jobs of this folder at hand."""
    (folder / "main.py").write_text(code)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, folder / "main.py"], env=environment, stdout=subprocess.PIPE, **options)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_to_the_parent_stops_the_workers_in_order(tmp_path):
    code = (
        "import pathlib, jobs_of_a_pool\n"
        "from nomadiff.jobs import in_processes\n"
        "if __name__ == '__main__':\n"
        f"    folder = pathlib.Path({str(tmp_path)!r})\n"
        "    try:\n"
        "        list(in_processes(jobs_of_a_pool.waits_for_a_signal, [(1, folder), (2, folder)], 2))\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    parent = started(code, tmp_path)
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    parent.terminate()
    out, _ = parent.communicate(timeout=60)
    assert out == b"stopped\n" and (tmp_path / "saved").read_text() == "1"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the processes that are started")
@pytest.mark.parametrize("wait", [0.0, 0.4])
def test_ctrl_c_while_workers_start_is_no_trace(tmp_path, wait):
    """A terminal tells all processes: one that was about to start printed where it was, and so did the pool."""
    code = (
        "import signal\n"
        "import jobs_of_a_pool\n"
        "from nomadiff.jobs import in_processes\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "    try:\n"
        "        list(in_processes(jobs_of_a_pool.double, [(number,) for number in range(4)], 2))\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    parent = started(code, tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while len(children.read_text().split()) < 2:  # the first one tracks what they share
        time.sleep(0.005)
    time.sleep(wait)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=60) == (b"stopped\n", b"")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the cores of a process")
def test_a_process_uses_the_cores_it_was_given():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
