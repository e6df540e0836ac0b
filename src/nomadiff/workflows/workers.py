"""Worker processes for a study's jobs: how many, and on which devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import torch

from nomadiff.errors import NomadiffError, UsageError
from nomadiff.files import read_json, temporary_folder
from nomadiff.job_folder import Job, JobFolder, work
from nomadiff.jobs import usable_cores
from nomadiff.processes import join_processes
from nomadiff.progress import QUIET
from nomadiff.registry import modules_of_parts
from nomadiff.stop_signals import blocked
from nomadiff.training.progress import progress_of

__all__ = ["check_group", "work_on"]


def work_on(
    study: Path,
    jobs: Sequence[Job],
    *,
    device: str | None = None,
    devices: Sequence[str] = (),
    processes: int | None = None,
    stop_after: float | None = None,
    gpus_per_job: int = 1,
) -> None:
    """Do jobs of a study whose plan is written, side by side with other processes and machines.

    Args:
        study: its folder.
        jobs: what to do.
        device: where to compute; None takes every GPU there is, or the CPU.
        devices: several devices.
        processes: processes side by side; None takes one a GPU, or one a CPU core.
        stop_after: seconds after which states are saved and jobs given back.
        gpus_per_job: GPUs, on a CPU processes, that do a job together where it can be shared.

    Raises:
        UsageError: the devices do not divide into so many, or no other process can know the jobs.
        NomadiffError, Interrupted: as :func:`~nomadiff.job_folder.work`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a study starts its processes itself: start it without torchrun, with --gpus-per-job N")
    kind = _kind_of(device or (devices[0] if devices else None))
    places: list[str | None] = [*devices] or [device]
    every = kind == "cuda" and (places == [None] or (places == ["cuda"] and gpus_per_job > 1))
    if every and torch.cuda.device_count() > 1:
        places = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    room = len(places) if kind != "cpu" else usable_cores()
    if gpus_per_job > 1:
        JobFolder(study).settings()  # what the processes of a job read: their UsageError
        jobs = [replace(job, run=partial(_run_together, study.absolute(), job, gpus_per_job)) for job in jobs]
        if kind != "cpu":
            places = _groups(places, gpus_per_job)
        room = max(1, room // gpus_per_job)
    if processes is None:
        processes = room
    runs = [study / name for name in dict.fromkeys(job.run_folder for job in jobs) if name]
    work(
        study,
        jobs,
        devices=places,
        processes=max(1, min(processes, len(jobs))),
        stop_after=stop_after,
        images_seen=lambda: sum(progress_of(run)[0] for run in runs),
    )


def check_group(gpus_per_job: int, batch: int) -> None:
    """Refuse a number of processes that cannot train together.

    Raises:
        UsageError: there are none, or the batch does not divide among them.
    """
    if gpus_per_job < 1:
        raise UsageError(f"gpus_per_job must be at least 1, got {gpus_per_job}")
    if batch % gpus_per_job:
        raise UsageError(f"batch {batch} does not divide among {gpus_per_job} processes (--gpus-per-job)")


def _kind_of(device: str | None) -> str:
    return join_processes(device).device.type


def _groups(places: Sequence[str | None], size: int) -> list[str | None]:
    """Devices of each job, as ``cuda:0,cuda:1``."""
    numbered = [place for place in places if place and place.startswith("cuda:")]
    if len(numbered) < len(places) or len(places) < size or len(places) % size:
        told = ", ".join(place or "this machine's" for place in places)
        raise UsageError(f"{len(places)} GPUs ({told}) do not divide among jobs of {size} (--gpus-per-job)")
    return [",".join(numbered[start : start + size]) for start in range(0, len(numbered), size)]


def _run_together(study: Path, job: Job, count: int, devices: str | None) -> None:
    """A job by several processes of torchrun, or by this one alone where it cannot be shared.

    The claim on it is this process's, and they do not outlive it.

    Args:
        study: the folder of the study.
        job: the job.
        count: processes.
        devices: their GPUs, as ``cuda:0,cuda:1``; else the CPU.

    Raises:
        NomadiffError: the first of their errors.
        KeyboardInterrupt: stopped by a signal, once they have saved their states.
    """
    first, *others = (devices or "cpu").split(",")
    if not job.shared:
        job.run(first if others else devices)
        return
    environment = dict(os.environ)
    if others:
        seen = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        numbers = [int(place.partition(":")[2]) for place in (first, *others)]
        names = [seen[number] if number < len(seen) and seen[number] else str(number) for number in numbers]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    # the user's own parts may lie anywhere that this process imports from, such as the folder of their script
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    if parent_process() is not None:  # one of several workers: their parent shows how far all are
        environment[QUIET] = "1"
    with temporary_folder() as told:
        given = [str(count), str(os.getpid()), str(study), job.name, "cuda" if others else "cpu", str(told)]
        process = None
        try:
            # a scheduler may tell all processes; a second signal would end torchrun at once
            with blocked(signal.SIGTERM):
                process = subprocess.Popen(
                    [sys.executable, "-m", "nomadiff.studies.together", *given, *modules_of_parts()],
                    env=environment,
                    start_new_session=True,  # Ctrl-C is told to them once, by us
                )
            code = process.wait()
        except KeyboardInterrupt:
            if process is not None:
                process.send_signal(signal.SIGINT)  # torchrun passes it on and waits
                process.wait()
            raise
        if code:
            found = sorted((read_json(path, dict) for path in told.glob("*.json")), key=lambda each: each["time"])
            text = f"{count} processes together ended with exit code {code}"
            error = NomadiffError(found[0]["error"] if found else text)
            error.add_note(found[0]["traceback"] if found else "none of them said why")
            raise error
