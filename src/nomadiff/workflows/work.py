"""``work`` and ``status``: a study's jobs, by as many processes on as many machines as there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from nomadiff.errors import DataError, NomadiffError
from nomadiff.job_folder import Job, JobFolder, JobState, work
from nomadiff.processes import join_processes
from nomadiff.training.run_folder import RunFolder

__all__ = ["study_status", "work_on", "work_study"]

_KINDS = {  # the modules that make the jobs, by name: some stand above this package
    "compare": "nomadiff.workflows.compare",
    "reproduce": "nomadiff.reproduce.study",
}


def work_on(
    study: Path,
    jobs: Sequence[Job],
    *,
    device: str | None = None,
    devices: Sequence[str] = (),
    processes: int | None = None,
    stop_after: float | None = None,
) -> None:
    """Do jobs of a study whose plan is written, side by side with other processes and machines.

    Args:
        study: its folder.
        jobs: what to do.
        device: where to compute; None takes every GPU there is, or the CPU.
        devices: several devices.
        processes: processes side by side; None takes one a GPU, or one a CPU core.
        stop_after: seconds after which states are saved and jobs given back.

    Raises:
        NomadiffError, Interrupted: as :func:`~nomadiff.job_folder.work`.
    """
    kind = join_processes(device or (devices[0] if devices else None)).device.type
    places: list[str | None] = [*devices] or [device]
    if places == [None] and kind == "cuda" and torch.cuda.device_count() > 1:
        places = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if processes is None:
        processes = len(places) if kind != "cpu" else os.cpu_count() or 1
    runs = [study / job.run_folder for job in jobs if job.run_folder]
    work(
        study,
        jobs,
        devices=places,
        processes=max(1, min(processes, len(jobs))),
        stop_after=stop_after,
        images_seen=lambda: sum(_progress(run)[0] for run in runs),
    )


def work_study(
    study: str | Path,
    *,
    devices: Sequence[str] = (),
    processes: int | None = None,
    stop_after: float | None = None,
    retry_failed: bool = False,
) -> None:
    """Work on a study that ``compare`` or ``reproduce`` has begun, here or on another machine that sees its folder.

    Args:
        study: the folder that was their ``out``.
        devices: where to compute; none takes every GPU there is, or the CPU.
        processes: processes side by side; None takes one a GPU, or one a CPU core.
        stop_after: seconds after which states are saved and jobs given back.
        retry_failed: try failed jobs again.

    Raises:
        UsageError: no such study has been begun.
        DataError: its settings are damaged.
        NomadiffError: jobs failed, after all that do not depend on them were done.
        Interrupted: as for :func:`work_on`.
    """
    study = Path(study).absolute()
    folder = JobFolder(study)
    settings = folder.settings()
    kind = _KINDS.get(str(settings.pop("kind", "")))
    if kind is None:
        raise DataError(f"{folder.path / 'study.json'}: not the settings of a study that this version knows")
    with suppress(OSError):  # its relative paths are those of the folder it was begun in
        os.chdir(str(settings.pop("folder", ".")))
    jobs = import_module(kind).jobs_from(settings, study)
    if retry_failed:
        folder.forget_failures()
    work_on(study, jobs, devices=devices, processes=processes, stop_after=stop_after)


def study_status(study: str | Path) -> list[dict[str, Any]]:
    """What each job of a study does: one row a job.

    Returns:
        ``job``, ``state`` (done, running, waiting or failed), ``images`` seen and ``of`` how many; of a running one
        ``images_per_second``, ``hours_left`` and ``where`` (machine and process); of a failed one ``error``.

    Raises:
        UsageError: no study has been begun there.
        DataError: its files are damaged.
    """
    return [_row(Path(study), state) for state in JobFolder(study).states()]


def _row(study: Path, state: JobState) -> dict[str, Any]:
    total = int(state.plan.get("images") or 0)
    run = str(state.plan.get("run_folder") or "")
    seen, speed = _progress(study / run) if run else (0, None)
    running = state.state == "running"
    return {
        "job": state.name,
        "state": state.state,
        "images": seen,
        "of": total,
        "images_per_second": speed if running else None,
        "hours_left": max(0, total - seen) / speed / 3600 if running and speed else None,
        "where": f"{state.owner.get('host')} {state.owner.get('pid')}" if running else "",
        "error": state.error if state.state == "failed" else "",
    }


def _progress(run: Path) -> tuple[int, float | None]:
    """Training images that the networks of a run have seen, and how many a second the last one sees."""
    seen, speed = 0, None
    for path in (*run.glob("log.jsonl"), *run.glob("*/log.jsonl")):
        with suppress(NomadiffError):
            if log := RunFolder(path.parent).read_log():
                seen += int(log[-1]["images_seen"])
                value = log[-1].get("images_per_second")
                speed = float(value) if isinstance(value, int | float) and value > 0 else speed
    return seen, speed
