"""``work`` and ``status``: a study's jobs, by as many processes on as many machines as there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.job_folder import Job, JobFolder, JobState
from nomadiff.training.progress import progress_of

__all__ = ["jobs_of", "study_status", "work_study"]


def work_study(
    study: str | Path,
    *,
    devices: Sequence[str] = (),
    processes: int | None = None,
    stop_after: float | None = None,
    retry_failed: bool = False,
    gpus_per_job: int | None = None,
) -> None:
    """Work on a study that another call has begun, from any machine that sees its folder.

    Args:
        study: the folder that was its ``out``.
        devices: where to compute; none takes every GPU there is, or the CPU.
        processes: processes side by side; None takes one a GPU, or one a CPU core.
        stop_after: seconds after which states are saved and jobs given back.
        retry_failed: try failed jobs again.
        gpus_per_job: GPUs, on a CPU processes, that do a job together; None takes what the study was begun with.

    Raises:
        UsageError: no such study has been begun.
        DataError: its settings are damaged.
        NomadiffError: jobs failed, after all that do not depend on them were done.
        Interrupted: as for :func:`work_on`.
    """
    from nomadiff.workflows.workers import work_on

    study = Path(study).absolute()
    asked = JobFolder(study).settings().get("gpus_per_job", 1) if gpus_per_job is None else gpus_per_job
    if type(asked) is not int or asked < 1:
        raise UsageError(f"gpus_per_job must be at least 1, got {asked}")
    jobs = jobs_of(study)
    if retry_failed:
        JobFolder(study).forget_failures()
    work_on(study, jobs, devices=devices, processes=processes, stop_after=stop_after, gpus_per_job=asked)


def jobs_of(study: Path) -> list[Job]:
    """The jobs of a study that was begun; this process goes to the folder that its relative paths are relative to.

    Raises:
        UsageError: no such study has been begun.
        DataError: its settings are damaged.
    """
    from nomadiff.reproduce import study as recipes
    from nomadiff.workflows import compare, improve_jobs, loop

    folder = JobFolder(study)
    settings = folder.settings()
    makers = {
        "compare": compare.jobs_from,
        "improve": improve_jobs.jobs_from,
        "loop": loop.jobs_from,
        "reproduce": recipes.jobs_from,
    }
    maker = makers.get(str(settings.pop("study", "")))
    if maker is None:
        raise DataError(f"{folder.path / 'study.json'}: not the settings of a study that this version knows")
    with suppress(OSError):
        os.chdir(str(settings.pop("folder", ".")))
    return maker(settings, study)


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
    total = state.plan["images"]
    run = state.plan["run_folder"]
    seen, speed = progress_of(study / run) if run else (0, None)
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
