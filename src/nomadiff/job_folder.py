"""A study as a folder of jobs: any number of processes, on any machines that share the folder, work through it.

Each job is a folder of small files below the study's ``jobs/``:

============== =====================================================================================================
``plan.json``  what it comes after, and what it is about
``claim-1``    who works on it; its time of change moves while that process lives (a heartbeat). Taken over: ``claim-2``
``done.json``  written when its products are whole
``failed.json`` the one-line error it ended with, and the traceback
============== =====================================================================================================

A claim is taken by creating its file, which only one process can. Whether its owner lives is judged without comparing
clocks: by its process number on the same machine, else by whether the file's time has changed while we watched.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, Interrupted, InUse, NomadiffError, UsageError, signal_of
from nomadiff.files import one_line_errors, open_regular, printable, read_json, read_regular, remove_tree, write_json
from nomadiff.jobs import in_processes
from nomadiff.plain import parse_json
from nomadiff.progress import progress_bar
from nomadiff.stop_signals import sigterm_as_interrupt

__all__ = ["Job", "JobFolder", "JobState", "work"]

_BEAT = 15.0  # seconds between signs of life
_PATIENCE = 120.0  # seconds without one until a claim may be taken over; a cache of NFS holds an old time for up to 60
_LOOK = 30.0  # seconds between two looks after which we know nothing of the time between: our own disk may have hung


@dataclass(frozen=True)
class Job:
    """One step of a study, such as the training of a model.

    Attributes:
        name: name of its folder; no two jobs of a study share one.
        run: does it, on the device it is given (None: the job's own). It can be pickled, and called again after a kill
            it goes on. Several processes may find a job undone at the same moment: one runs it, and should two run it
            after all (a machine that was cut off and came back), they must write the same files.
        after: names of the jobs that must be done before.
        products: files that it makes; it is done only while they are there.
        about: what the products depend on; done with something else, it is done again.
        images: how many training images it takes, for progress.
        run_folder: where their log is, relative to the study.
        shared: whether several processes, each of which calls ``run``, may do it together.
    """

    name: str
    run: Callable[[str | None], Any]
    after: tuple[str, ...] = ()
    products: tuple[Path, ...] = ()
    about: str = ""
    images: int = 0
    run_folder: str = ""
    shared: bool = False


@dataclass(frozen=True)
class JobState:
    """What the files of a job say.

    Attributes:
        name: the job.
        state: "done", "failed", "running" or "waiting".
        error: the line it failed with.
        owner: ``host`` and ``pid`` of the process that works on it, and what tells it from others; empty for none.
        plan: what ``plan.json`` holds.
    """

    name: str
    state: str
    error: str = ""
    owner: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)


class JobFolder:
    """The jobs of a study.

    Args:
        study: the study's folder; the jobs are in its ``jobs/``.
    """

    def __init__(self, study: str | Path) -> None:
        self.study = Path(study)
        self.path = self.study / "jobs"

    def write_plan(self, jobs: Sequence[Job], settings: dict[str, Any] | None = None) -> None:
        """Write the plan of every job; jobs that are no longer part of the study are removed.

        Args:
            jobs: all of them.
            settings: plain values from which another process can make the same jobs; None where there are none.

        Raises:
            UsageError: two jobs share a name.
        """
        names = [job.name for job in jobs]
        if len(set(names)) < len(names):
            raise UsageError(f"two jobs share a name: {', '.join(sorted(n for n in set(names) if names.count(n) > 1))}")
        for path in self.path.glob("*/plan.json"):
            if path.parent.name not in names:
                remove_tree(path.parent, ignore_errors=True)
        for job in jobs:
            plan = {"after": list(job.after), "about": job.about, "images": job.images, "run_folder": job.run_folder}
            path = self.path / job.name / "plan.json"
            if not path.exists() or read_json(path) != plan:
                write_json(path, plan)
        begin = self.path / "study.json"
        if settings is not None:
            write_json(begin, {**settings, "folder": os.getcwd()})
        else:
            begin.unlink(missing_ok=True)  # that of other jobs

    @property
    def is_known(self) -> bool:
        """Whether other processes can work on it, by what is written here."""
        return (self.path / "study.json").exists()

    def _require(self) -> None:
        if not self.study.is_dir():
            raise UsageError(f"{self.study}: no such folder")

    def settings(self) -> dict[str, Any]:
        """The settings that the plan was made from, and the ``folder`` that their paths are relative to.

        Raises:
            UsageError: there are none.
        """
        self._require()
        if not self.is_known:
            raise UsageError(
                f"{self.study} has no jobs to work on: give the --out of compare, improve --workers, loop or a CASD "
                "recipe of reproduce (a study of objects in Python's memory is worked on by its own call alone)"
            )
        return read_json(self.path / "study.json", dict)

    def is_done(self, job: Job) -> bool:
        """Whether a job was done as it is planned now, and its products are there."""
        try:
            about = read_json(self.path / job.name / "done.json", dict).get("about")
        except DataError:
            return False
        return about == job.about and all(path.exists() for path in job.products)

    def mark_done(self, job: Job) -> None:
        """Write that a job is done; its products are whole."""
        write_json(self.path / job.name / "done.json", {"about": job.about})
        (self.path / job.name / "failed.json").unlink(missing_ok=True)

    def error_of(self, name: str) -> str | None:
        """The line that a job failed with, or None."""
        try:
            return str(read_json(self.path / name / "failed.json", dict).get("error"))
        except DataError:
            return None

    def forget_failures(self) -> None:
        """Let failed jobs be tried again."""
        for path in self.path.glob("*/failed.json"):
            path.unlink(missing_ok=True)

    def states(self) -> list[JobState]:
        """What every job's files say, in order of their names.

        Raises:
            UsageError: there are no jobs here.
            DataError: a plan is damaged.
        """
        self._require()
        plans = sorted(self.path.glob("*/plan.json"))
        if not plans:
            raise UsageError(
                f"{self.study} is no study with jobs: give the --out of compare, improve --workers, loop or a CASD "
                "recipe of reproduce"
            )
        found = []
        for path in plans:
            name, plan = path.parent.name, read_json(path, dict)
            kinds = {"after": list, "about": str, "images": int, "run_folder": str}
            if any(type(plan.get(name)) is not kind for name, kind in kinds.items()):
                raise DataError(f"{path}: not the plan of a job")
            error, owner = self.error_of(name), _owner(_last_claim(path.parent))
            owner = {} if _lives_here(owner) is False else owner
            state = "running" if owner else "waiting" if error is None else "failed"
            with suppress(DataError):
                state = "done" if read_json(path.parent / "done.json", dict).get("about") == plan["about"] else state
            found.append(JobState(name, state, error or "", owner, plan))
        return found


def work(
    study: str | Path,
    jobs: Sequence[Job],
    *,
    devices: Sequence[str | None] = (None,),
    processes: int = 1,
    stop_after: float | None = None,
    images_seen: Callable[[], int] | None = None,
) -> None:
    """Do the jobs of a study until none is left, side by side with whoever else works on it.

    Args:
        study: its folder, where the plan is written already.
        jobs: what to do.
        devices: where to compute; process i takes device i modulo their number.
        processes: processes of one thread each; with 1 the work is done in this process with all its threads.
        stop_after: seconds after which the jobs at hand save their states and are given back.
        images_seen: training images that all jobs together have seen, for the progress bar.

    Raises:
        NomadiffError: jobs failed (the message has the first one's), after all that do not depend on them were done.
        Interrupted: Ctrl-C, SIGTERM or ``stop_after``; states are saved, claims given back.
    """
    folder = JobFolder(study)
    try:
        if processes == 1:
            _work(folder.study, jobs, devices[0], stop_after)
        else:
            given = [(folder.study, jobs, devices[i % len(devices)], stop_after, i) for i in range(processes)]
            with (
                _shown(folder, jobs, images_seen) as show,
                closing(in_processes(_work, given, processes, while_waiting=show)) as results,
            ):
                for _ in results:
                    show()
    except KeyboardInterrupt as interrupt:
        raise _stopped(signal_of(interrupt)) from None
    undone = [job.name for job in jobs if not folder.is_done(job)]
    errors = {name: error for name in undone if (error := folder.error_of(name)) is not None}
    if errors:
        name, error = next(iter(errors.items()))
        again = f"; nomadiff work {study} --retry-failed tries failed jobs again" if folder.is_known else ""
        raise NomadiffError(f"{len(errors)} of {len(jobs)} jobs failed; {name}: {error}{again}")
    if undone and stop_after is None:
        raise NomadiffError(f"{study}: was planned anew, without {undone[0]}; run the same command again")
    if undone:
        raise _stopped(signal.SIGTERM)


def _stopped(number: int) -> Interrupted:
    return Interrupted("stopped, states saved: run the same command again to go on", number)


@contextmanager
def _shown(
    folder: JobFolder, jobs: Sequence[Job], images_seen: Callable[[], int] | None
) -> Iterator[Callable[[], None]]:
    """A progress bar over all jobs; gives what moves it."""
    seen = 0
    with progress_bar(f"{len(jobs)} jobs", total=sum(job.images for job in jobs)) as advance:

        def show() -> None:
            nonlocal seen
            now = images_seen() if images_seen else 0
            advance(now - seen, note=f"{sum(map(folder.is_done, jobs))} of {len(jobs)} done")
            seen = now

        yield show


def _work(study: Path, jobs: Sequence[Job], device: str | None, stop_after: float | None, number: int = 0) -> None:
    """Do whatever job is free until none is left, or until the time is over. ``number`` tells equal calls apart."""
    folder, watch = JobFolder(study), _Watch()
    with sigterm_as_interrupt(), _deadline(stop_after) as time_is_over:
        while not time_is_over():
            try:
                found = _next(folder, jobs, watch)
                if found == "finished":
                    return
                if isinstance(found, str):
                    time.sleep(1)  # others work on what is left
                    continue
                job, claim = found
                if not _do(folder, job, claim, device):
                    watch.put_off(claim.folder)
            except (Interrupted, KeyboardInterrupt):
                if not time_is_over():
                    raise


def _do(folder: JobFolder, job: Job, claim: _Claim, device: str | None) -> bool:
    """Run a claimed job and write what came of it; the claim is given back, whatever comes and whenever.

    Returns:
        Whether it could be begun: False where another process still uses what it needs.
    """
    try:
        try:
            with claim.kept_up():
                job.run(device)
        except Interrupted:
            raise
        except InUse:  # the owner of the claim that we took over only stood still, and may go on
            claim.path.unlink(missing_ok=True)
            return False
        except Exception as error:
            told = str(error) if isinstance(error, NomadiffError) else f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()
            write_json(claim.folder / "failed.json", {"error": printable(told), "by": claim.owner, "traceback": trace})
        else:
            if claim.is_current():
                folder.mark_done(job)
    except (Interrupted, KeyboardInterrupt):
        if not claim.is_lost:
            raise
    finally:
        claim.release()
    return True


def _next(folder: JobFolder, jobs: Sequence[Job], watch: _Watch) -> tuple[Job, _Claim] | str:
    """A job and our claim on it; "waiting" where all that could be done is claimed; "finished"."""
    done = {job.name for job in jobs if folder.is_done(job)}
    stuck = {job.name for job in jobs if job.name not in done and folder.error_of(job.name) is not None}
    state = "finished"
    for job in jobs:  # a job stands behind those that it depends on
        if job.name in done or job.name in stuck or not (folder.path / job.name / "plan.json").exists():
            continue
        if stuck.intersection(job.after):
            stuck.add(job.name)
            continue
        state = "waiting"
        if done.issuperset(job.after) and (claim := watch.claim(folder.path / job.name)) is not None:
            if not folder.is_done(job):  # it may have been done between our look and our claim
                return job, claim
            claim.release()
    return state


class _Claim:
    """A claim of this process on a job."""

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self.path, self.folder, self.owner = path, path.parent, owner
        self.is_lost = False

    def is_current(self) -> bool:
        """Whether nobody has taken it over."""
        return _last_claim(self.folder) == self.path

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Show that this process lives while the block runs; taken over by another one, the block gets SIGTERM."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT):
                try:
                    os.utime(self.path)
                    self.is_lost = not self.is_current()
                except FileNotFoundError:
                    self.is_lost = True
                except OSError:  # a file system that is away for a while
                    continue
                if self.is_lost:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def release(self) -> None:
        """Give it back, with older ones whose owners are gone."""
        if self.is_current():
            for number in range(1, _number(self.path) + 1):
                (self.folder / f"claim-{number}").unlink(missing_ok=True)


class _Watch:
    """What this process has seen of other processes' claims."""

    def __init__(self) -> None:
        # a claim's time of change, and our clock when we first saw it and when we last looked
        self._seen: dict[Path, tuple[int, float, float]] = {}
        self._put_off: dict[Path, float] = {}

    def put_off(self, folder: Path) -> None:
        """Leave a job alone for a while: others come first."""
        self._put_off[folder] = time.monotonic()

    def claim(self, folder: Path) -> _Claim | None:
        """Claim a job that nobody works on; None where somebody does."""
        if folder in self._put_off and time.monotonic() - self._put_off[folder] < _BEAT:
            return None
        last = _last_claim(folder)
        if last is not None and self._lives(last):
            return None
        path = folder / f"claim-{1 if last is None else _number(last) + 1}"
        owner = _this_process()
        try:
            with one_line_errors(path), suppress(FileExistsError):
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
                with open(descriptor, "w", encoding="utf-8") as handle:
                    handle.write(json.dumps(owner))
                return _Claim(path, owner)
        except NomadiffError:
            if folder.exists():
                raise
        return None  # another process was faster, or the job was removed from the plan

    def _lives(self, path: Path) -> bool:
        try:
            with open_regular(path) as handle:  # opening asks the server of a network file system for the newest time
                changed = os.fstat(handle.fileno()).st_mtime_ns
        except OSError:
            return True  # given back at this moment: look again later
        if (lives := _lives_here(_owner(path))) is not None:
            return lives
        now = time.monotonic()
        before, since, looked = self._seen.get(path, (0, now, now))
        if changed != before or now - looked > _LOOK:
            since = now
        self._seen[path] = changed, since, now
        return now - since < _PATIENCE


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _last_claim(folder: Path) -> Path | None:
    """The newest claim on a job."""
    claims = [path for path in folder.glob("claim-*") if path.name.rpartition("-")[2].isdigit()]
    return max(claims, key=_number, default=None)


def _owner(path: Path | None) -> dict[str, Any]:
    """Who made a claim; empty where there is none, or it is being written."""
    with suppress(OSError, DataError):
        return parse_json(read_regular(path), str(path), dict) if path is not None else {}
    return {}


def _lives_here(owner: dict[str, Any]) -> bool | None:
    """Whether the process that made a claim lives; None where this machine cannot know."""
    here = _this_process()
    if here["started"] is None or any(owner.get(key) != here[key] for key in ("boot", "processes")):
        return None
    return _started(owner.get("pid")) == owner.get("started")


def _this_process() -> dict[str, Any]:
    """What tells this process from every other: machine, boot, name space of process numbers, number and start."""
    boot = namespace = ""
    with suppress(OSError):  # Linux; elsewhere heartbeats alone decide
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    host = platform.node()
    return {"host": host, "pid": pid, "boot": boot, "processes": namespace, "started": _started(pid)}


def _started(pid: Any) -> str | None:
    """When a process of this machine started, in its own unit; None where there is no such process."""
    try:
        content = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError, TypeError):
        return None
    state, *rest = content.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


@contextmanager
def _deadline(seconds: float | None) -> Iterator[Callable[[], bool]]:
    """SIGTERM to this process after so many seconds; gives a function that says whether they are over."""
    if seconds is None:
        yield lambda: False
        return
    over = threading.Event()

    def stop() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield over.is_set
    finally:
        timer.cancel()
