"""``nomadiff work``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nomadiff.cli.answer import Answer
from nomadiff.cli.options import Duration

__all__ = ["work"]


def work(
    study: Path,
    *,
    devices: tuple[str, ...] = (),
    jobs: int | None = None,
    gpus_per_job: int | None = None,
    stop_after: Duration | None = None,
    retry_failed: bool = False,
    launch: Literal["slurm", "local"] | None = None,
    workers: int = 1,
    launch_option: tuple[str, ...] = (),
) -> Answer:
    """Work on a study that compare, improve, loop or reproduce has begun, from any machine that sees its folder.

    An example, on every machine:

    nomadiff work study/ --jobs 4 --stop-after 3h

    or through a scheduler:

    nomadiff work study/ --launch slurm --workers 8 --launch-option gpus_per_node=1 --launch-option timeout_min=240

    `compare --workers 0` writes the plan of a study and nothing else. A worker takes one job after another, and waits
    while others work on what is left. Killed, it loses nothing: another one goes on with its job. Start workers in the
    folder where the study was begun, if its paths are relative.

    Args:
        study: The --out of compare, improve, loop or a CASD recipe of reproduce.
        devices: Where to compute (cuda:0, cuda:1, cpu). By default every GPU, or the CPU.
        jobs: Jobs side by side; by default one a GPU, or one a CPU core.
        gpus_per_job: GPUs that train and sample one model together, through torchrun; on a CPU as many processes. By
            default what the study was begun with.
        stop_after: Save and stop after so long: 90m, 3h, 2d.
        retry_failed: Try failed jobs again.
        launch: Submit workers to a scheduler instead: slurm, or local (processes of this machine).
        workers: Workers to submit. One whose time is over saves its state and is queued again.
        launch_option: Options of the scheduler, name=value (timeout_min, gpus_per_node, partition, ...).
    """
    if launch is not None:
        from nomadiff.registry import modules_of_parts
        from nomadiff.studies.launch import launch_workers

        words = [word for device in devices for word in ("--devices", device)]
        words += [] if jobs is None else ["--jobs", str(jobs)]
        words += [] if gpus_per_job is None else ["--gpus-per-job", str(gpus_per_job)]
        words += [] if stop_after is None else ["--stop-after", f"{stop_after:.3f}s"]
        words += ["--retry-failed"] if retry_failed else []
        words += [word for module in modules_of_parts() for word in ("--plugin", module)]
        submitted = launch_workers(study, launch, workers, options=launch_option, words=words)
        jobs_submitted = [job.job_id for job in submitted]
        return Answer(
            text=f"submitted: {', '.join(jobs_submitted)}",
            value={"submitted": jobs_submitted},
            files={"logs": study / "jobs" / "launched"},
            next=("status", study),
        )
    from nomadiff.errors import UsageError
    from nomadiff.job_folder import JobFolder
    from nomadiff.studies.work import work_study

    if workers != 1 or launch_option:
        raise UsageError("--workers and --launch-option are for --launch; how many jobs side by side here say --jobs")

    place = study.absolute()  # the work goes on where the study was begun
    work_study(
        study,
        devices=devices,
        processes=jobs,
        stop_after=stop_after,
        retry_failed=retry_failed,
        gpus_per_job=gpus_per_job,
    )
    report = {"report": study / "report.html"} if (place / "report.html").is_file() else {}
    is_comparison = JobFolder(place).settings().get("study") == "compare"
    return Answer(files={"done": study, **report}, next=("verdict" if is_comparison else "status", study))
