"""Worker processes for a study's jobs: how many, and on which devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from nomadiff.errors import NomadiffError
from nomadiff.job_folder import Job, work
from nomadiff.processes import join_processes
from nomadiff.training.run_folder import PREPARATION, RunFolder

__all__ = ["progress_of", "work_on"]

_LOGS = (
    "log.jsonl",
    "*/log.jsonl",
    f"{PREPARATION}/*/log.jsonl",
    "generation-*/model/log.jsonl",
    "generation-*/model/base/log.jsonl",
)


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
    runs = [study / name for name in dict.fromkeys(job.run_folder for job in jobs) if name]
    work(
        study,
        jobs,
        devices=places,
        processes=max(1, min(processes, len(jobs))),
        stop_after=stop_after,
        images_seen=lambda: sum(progress_of(run)[0] for run in runs),
    )


def progress_of(run: Path) -> tuple[int, float | None]:
    """Training images that the networks of a run (of a loop: its bases) have seen; how many a second the last sees."""
    seen, speed = 0, None
    for path in (path for pattern in _LOGS for path in sorted(run.glob(pattern))):
        with suppress(NomadiffError):
            run_folder = RunFolder(path.parent)
            if log := run_folder.read_log():
                # a run that was stopped has seen more than its log tells, one that runs more than its state
                seen += max(int(log[-1]["images_seen"]), run_folder.goes_on_from() or 0)
                value = log[-1].get("images_per_second")
                speed = float(value) if isinstance(value, int | float) and value > 0 else speed
    return seen, speed
