"""``work`` and ``status``: a study's jobs, by as many processes on as many machines as there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError
from nomadiff.job_folder import JobFolder, JobState
from nomadiff.reproduce import study as recipes
from nomadiff.workflows import compare, loop
from nomadiff.workflows.workers import progress_of, work_on

__all__ = ["study_status", "work_study"]


def work_study(
    study: str | Path,
    *,
    devices: Sequence[str] = (),
    processes: int | None = None,
    stop_after: float | None = None,
    retry_failed: bool = False,
) -> None:
    """Work on a study that ``compare``, ``loop`` or ``reproduce`` has begun, from any machine that sees its folder.

    Args:
        study: the folder that was its ``out``.
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
    makers = {"compare": compare.jobs_from, "loop": loop.jobs_from, "reproduce": recipes.jobs_from}
    maker = makers.get(str(settings.pop("study", "")))
    if maker is None:
        raise DataError(f"{folder.path / 'study.json'}: not the settings of a study that this version knows")
    with suppress(OSError):  # its relative paths are those of the folder it was begun in
        os.chdir(str(settings.pop("folder", ".")))
    jobs = maker(settings, study)
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
