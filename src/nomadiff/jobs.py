"""Many independent jobs over all cores. Each result is stored at once, so a killed run continues."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

from nomadiff.errors import DataError, Interrupted, NomadiffError, UsageError
from nomadiff.files import one_line_errors, used_alone
from nomadiff.memory import keep_freed_memory
from nomadiff.plain import differences, parse_json
from nomadiff.progress import plain_warnings, progress_bar
from nomadiff.registry import import_plugin, modules_of_parts
from nomadiff.stop_signals import blocked, sigterm_as_interrupt, stop_is_new

__all__ = ["Key", "computed_with", "in_processes", "run_jobs", "usable_cores"]

K = TypeVar("K", bound=tuple[Any, ...])

Key = tuple[int, ...]
"""Names a job; its result is a function of it alone."""


def run_jobs(
    work: Callable[..., Any],
    keys: Sequence[Key],
    journal: str | Path,
    about: dict[str, Any],
    *,
    processes: int | None = None,
    warm_up: Callable[[], Any] | None = None,
    label: Callable[[Key], str] = str,
) -> dict[Key, Any]:
    """Do ``work(*key)`` for every key that the journal does not hold yet.

    Each result is appended to ``journal`` (a line of JSON) and flushed to disk as it comes in, in whatever order.
    Killed and called again, the work goes on with what is missing; a torn last line is cut off. A result passes through
    JSON unchanged (floats keep all their digits), so it does not matter when and by which process it was computed.

    Args:
        work: a function that can be pickled; returns what JSON can hold, with no NaN or infinity.
        keys: the jobs.
        journal: where results are kept.
        about: all that the results depend on; a journal begun with anything else is refused.
        processes: worker processes of one thread each; None takes one for each core, 1 works in this process.
        warm_up: called before workers are started, to compile for all of them.
        label: what the progress bar says of a job.

    Returns:
        The result of every key, in the order of ``keys``.

    Raises:
        UsageError: the journal was begun with other settings, or another process writes it.
        DataError: the journal is damaged.
        NomadiffError: a worker ended early.
    """
    about = json.loads(json.dumps(about))  # as the journal reads it back
    journal = Path(journal)
    with one_line_errors(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
    with used_alone(journal, journal.with_name(f".{journal.name}.lock")), _Journal(journal, about) as kept:
        missing = [key for key in keys if key not in kept.results]
        name = journal.name.split(".")[0]
        with (
            progress_bar(name, total=len(keys), unit="jobs", done=len(keys) - len(missing)) as advance,
            closing(in_processes(work, missing, processes or usable_cores(), warm_up=warm_up)) as results,
        ):
            for key, result in results:
                kept.append(key, result)
                advance(1, note=label(key))
        return {key: kept.results[key] for key in keys}


def usable_cores() -> int:
    """CPU cores that this process may use: of a scheduler's job those that it was given, not all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computed_with(device: str = "cpu") -> dict[str, str]:
    """Versions and kind of processor, which decide the rounding of two-dimensional runs."""
    if device != "cpu":
        return {"numpy": version("numpy"), "torch": version("torch")}
    from llvmlite import binding  # type: ignore[import-untyped]

    versions = {name: version(name) for name in ("numpy", "numba", "llvmlite")}
    return versions | {"processor": binding.get_host_cpu_name()}


def in_processes(
    work: Callable[..., Any],
    keys: Sequence[K],
    processes: int,
    *,
    warm_up: Callable[[], Any] | None = None,
    while_waiting: Callable[[], Any] | None = None,
) -> Generator[tuple[K, Any]]:
    """Give ``(key, work(*key))`` for every key in whatever order they finish; the one pool of processes there is.

    Small networks gain nothing from threads and collapse when threads fight over cores; processes of one thread each,
    side by side, do not. When a job fails, or on Ctrl-C or SIGTERM, the other workers get SIGTERM, upon which a
    training saves its state. What reads the results closes this generator (``contextlib.closing``), or the workers
    outlive an error of its own.

    Args:
        work: a function that can be pickled, as its results can.
        keys: its arguments.
        processes: worker processes; with 1, or for a single key, the work is done in this process.
        warm_up: called before workers are started, to compile for all of them.
        while_waiting: called twice a second while workers work.

    Raises:
        NomadiffError: a worker ended early, or what the work raises.
    """
    if processes == 1 or len(keys) < 2:
        yield from ((key, work(*key)) for key in keys)
        return
    if warm_up is not None:
        warm_up()
    workers = min(processes, len(keys))
    waiting: dict[Future, K] = {}
    queue = iter(keys)
    before = set(active_children())
    # children inherit the variable, which also bounds the threads of libraries that start before torch is told
    with (
        _environment("OMP_NUM_THREADS", "1"),
        sigterm_as_interrupt(),
        ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin_worker, initargs=modules_of_parts()
        ) as pool,
    ):
        try:
            while True:
                # a few jobs ahead of the workers: millions of them do not sit in the queue, and Ctrl-C is soon obeyed
                # in a worker that starts, until it knows what to do upon one: a terminal tells all of them of Ctrl-C
                with blocked(signal.SIGTERM, signal.SIGINT):
                    while len(waiting) < 2 * workers and (key := next(queue, None)) is not None:
                        waiting[pool.submit(_job, work, key)] = key
                if not waiting:
                    return
                patience = None if while_waiting is None else 0.5
                for future in wait(waiting, timeout=patience, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
                if while_waiting is not None:
                    while_waiting()
        except BaseException as error:
            for future in waiting:
                future.cancel()
            for child in set(active_children()) - before:
                child.terminate()  # SIGTERM: a training saves its state first
            if isinstance(error, BrokenProcessPool):
                raise NomadiffError(
                    "a worker process ended early: killed (out of memory? use fewer processes), or started by a script "
                    "without `if __name__ == '__main__':`; what was finished is kept, run it again to continue"
                ) from error
            raise


class _Worker:
    """What a worker process knows of itself."""

    busy = False
    ending = False


def _begin_worker(*modules: str) -> None:
    """One thread a worker; Ctrl-C is the parent's to handle; a worker whose parent is gone (killed) ends too.

    ``modules`` hold the user's own parts, imported by the parent.
    """
    import torch

    for module in modules:
        with suppress(UsageError):  # a job that needs it says so in one line
            import_plugin(module)

    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.showwarning = plain_warnings()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        if _Worker.busy:
            os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
            time.sleep(30)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(number: int, frame: Any) -> None:
    """Stop the job at hand and begin no other. The process stays: were one to end, the pool would kill the others."""
    _Worker.ending = True
    if stop_is_new() and _Worker.busy:
        raise KeyboardInterrupt


def _job(work: Callable[..., Any], key: tuple[Any, ...]) -> Any:
    if _Worker.ending:
        raise KeyboardInterrupt
    _Worker.busy = True
    try:
        return work(*key)
    except Interrupted:  # a training handles the signal itself
        _Worker.ending = True
        raise
    finally:
        _Worker.busy = False


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Journal:
    """Finished jobs, one line of JSON each, appended and flushed to disk; a torn last line is cut off."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.results: dict[Key, Any] = {}
        self._path = path
        self._about = about

    def __enter__(self) -> _Journal:
        whole = self._read() if self._path.exists() else 0
        with one_line_errors(self._path):
            self._handle = open(self._path, "ab")
            self._handle.truncate(whole)
        if whole == 0:
            self._write({"about": self._about})
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # the failed write was reported before
            self._handle.close()

    def append(self, key: Key, result: Any) -> None:
        """Keep a finished job."""
        self._write({"key": list(key), "result": result})
        self.results[key] = result

    def _write(self, value: dict[str, Any]) -> None:
        line = json.dumps(value, allow_nan=False).encode() + b"\n"
        with one_line_errors(self._path):
            self._handle.write(line)
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def _read(self) -> int:
        """Read the whole lines; returns their length in bytes."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        try:
            entries = [parse_json(line, "line", dict) for line in content[:whole].splitlines()]
            about = dict(entries[0]["about"]) if entries else self._about
            results = {tuple(entry["key"]): entry["result"] for entry in entries[1:]}
        except (DataError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{self._path} is damaged ({error}); delete it to begin again") from error
        if changed := differences(about, self._about):
            raise UsageError(f"{self._path} was begun with other settings ({changed}): choose another folder")
        self.results = results
        return whole
