"""Jobs for ``test_job_folder.py``: what they do, and a worker as a process of its own."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from nomadiff import job_folder
from nomadiff.errors import DataError
from nomadiff.files import write_text
from nomadiff.job_folder import Job, JobFolder, work


def count_up(folder: Path, name: str, steps: int, pause: float, device: str | None) -> None:
    """A job of ``steps`` steps; its state is a file, so that a killed one goes on. Writes the sum of its inputs."""
    state = folder / f"{name}.state"
    done = int(state.read_text()) if state.exists() else 0
    while done < steps:
        time.sleep(pause)
        done += 1
        with open(folder / "steps.txt", "a") as handle:  # first: killed after it, a step is told twice
            handle.write(f"{name} {done} {os.getpid()}\n")
        write_text(state, str(done))
    write_text(folder / f"{name}.txt", f"{name}: {done} steps\n")


def gather(folder: Path, names: tuple[str, ...], device: str | None) -> None:
    write_text(folder / "report.txt", "".join((folder / f"{name}.txt").read_text() for name in names))


def fail(folder: Path, device: str | None) -> None:
    if not (folder / "mended").exists():
        raise DataError("no such\nimage")
    write_text(folder / "bad.txt", "good")


def study(folder: Path, count: int = 11, steps: int = 5, pause: float = 0.02) -> list[Job]:
    """``count`` jobs, and one after them all."""
    names = tuple(f"job{number}" for number in range(count))
    jobs = [
        Job(name, partial(count_up, folder, name, steps, pause), products=(folder / f"{name}.txt",), about=str(steps))
        for name in names
    ]
    return [*jobs, Job("report", partial(gather, folder, names), names, (folder / "report.txt",), str(steps))]


if __name__ == "__main__":
    where, (beat, patience, pause) = Path(sys.argv[1]), map(float, sys.argv[2:5])
    job_folder._BEAT, job_folder._PATIENCE = beat, patience
    if len(sys.argv) > 5:  # as if on another machine, which cannot see whether our process lives
        job_folder._lives_here = lambda owner: None
    jobs = study(where, pause=pause)
    JobFolder(where).write_plan(jobs)
    work(where, jobs)
