"""Workers of a study as jobs of a cluster's scheduler, through submitit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nomadiff.errors import NomadiffError, UsageError
from nomadiff.extras import install_command
from nomadiff.job_folder import JobFolder
from nomadiff.stop_signals import blocked

__all__ = ["launch_workers"]

_TIMEOUTS = 10_000  # how often a worker is queued again when its time is over; submitit's own is 3
_SHARED = ("timeout_min", "mem_gb", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "name")


class Worker:
    """``nomadiff work`` as a process of its own, which can be told to save its state and be waited for.

    Attributes:
        words: the command's words after ``nomadiff``.
        folder: where it runs.
    """

    def __init__(self, words: Sequence[str], folder: str) -> None:
        self.words, self.folder = list(words), folder
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Work until nothing is left. Raises NomadiffError where jobs failed; the scheduler's log says which."""
        # SLURM may send its warning to all processes of a job: to this one it means a checkpoint, to others their end
        with blocked(signal.SIGUSR1, signal.SIGUSR2):
            self._process = subprocess.Popen([sys.executable, "-m", "nomadiff", *self.words], cwd=self.folder)
        # and SIGTERM to this one alone, upon which submitit would do nothing: `scontrol requeue`, a job that gives way
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop())
        while (code := self._process.poll()) is None:
            time.sleep(0.5)
        if code:
            raise NomadiffError(f"nomadiff {' '.join(self.words)}: exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit queues again when the time is over or the job must give way; states are saved first."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._stop()
            with suppress(ChildProcessError):  # its end has been seen
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)  # poll() holds a lock we may interrupt
        return DelayedSubmission(Worker(self.words, self.folder))

    def _stop(self) -> None:
        """Have the worker save its state and give its job back."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)


def launch_workers(
    study: str | Path,
    cluster: str,
    count: int,
    *,
    options: Sequence[str] = (),
    words: Sequence[str] = (),
) -> list[Any]:
    """Submit workers of a study to a scheduler.

    Args:
        study: the folder of a study that was begun; their logs go into its ``jobs/launched``.
        cluster: "slurm", or "local" for processes of this machine.
        count: how many workers; each is a job of its own, queued again when its time is over.
        options: ``name=value`` each: those that all of submitit's schedulers know (``timeout_min``, ``gpus_per_node``,
            ``cpus_per_task``, ``mem_gb``), or the scheduler's own (``partition``, ``account``, ``signal_delay_s``).
        words: options of ``nomadiff work`` for each.

    Returns:
        submitit's jobs.

    Raises:
        UsageError: an option is not ``name=value``, or one that the scheduler does not know; no study was begun.
        NomadiffError: submitit is missing, or the scheduler refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise NomadiffError(f"--launch needs submitit: {install_command('cluster')}") from error
    study = Path(study).absolute()
    JobFolder(study).settings()
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--launch-option {option}: write name=value, such as timeout_min=240")
        number = value.removeprefix("-").replace(".", "", 1).isdigit()
        given[name if name in _SHARED else f"{cluster}_{name}"] = (
            value if not number else float(value) if "." in value else int(value)
        )
    try:
        often: dict[str, Any] = {f"{cluster}_max_num_timeout": _TIMEOUTS}
        executor = submitit.AutoExecutor(study / "jobs" / "launched", cluster=cluster, **often)
        if cluster == "slurm":  # some clusters queue a job again only if it says that it may be
            executor.update_parameters(slurm_additional_parameters={"requeue": True})
        executor.update_parameters(**{"name": f"nomadiff-{study.name}", **given})
        return [executor.submit(Worker(["work", str(study), *words], os.getcwd())) for _ in range(count)]
    except (NameError, ValueError, AssertionError, TypeError) as error:  # what submitit raises for wrong parameters
        raise UsageError(f"--launch {cluster}: {' '.join(str(error).split())}") from error
    except (OSError, RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise NomadiffError(f"--launch {cluster}: {' '.join(str(error).split())}") from error
