"""``nomadiff work``."""

from __future__ import annotations

from pathlib import Path

from nomadiff.cli.options import Duration

__all__ = ["work"]


def work(
    study: Path,
    *,
    devices: tuple[str, ...] = (),
    jobs: int = 1,
    stop_after: Duration | None = None,
    retry_failed: bool = False,
) -> None:
    """Work on a study that compare or reproduce has begun; any number of workers, on any machines that see its folder.

    An example, on each machine:

    nomadiff work study/ --jobs 4 --stop-after 3h

    `compare --workers 0` writes the plan of a study and nothing else. A worker takes one job after another, and waits
    while others work on what is left. Killed, it loses nothing: another one goes on with its job. Start workers in the
    folder where the study was begun, if its paths are relative.

    Args:
        study: The --out of compare or reproduce.
        devices: Where to compute (cuda:0, cuda:1, cpu); once for every device. By default every GPU, or the CPU.
        jobs: Jobs side by side.
        stop_after: Save and stop after so long: 90m, 3h, 2d.
        retry_failed: Try failed jobs again.
    """
    from nomadiff.workflows.work import work_study

    work_study(study, devices=devices, processes=jobs, stop_after=stop_after, retry_failed=retry_failed)
    print(f"done: {study}\nnext: nomadiff status {study}")
