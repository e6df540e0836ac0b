"""One job of a study by several processes: what a worker starts for ``--gpus-per-job``, torchrun and what that starts.

    python -m nomadiff.studies.together COUNT PARENT STUDY JOB DEVICE FOLDER MODULE ...

is torchrun, of ``COUNT`` processes that do the job ``JOB``. It ends when the process ``PARENT`` does, and they with it.
A process that fails leaves its error in ``FOLDER``. ``MODULE`` are those of the user's own parts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

__all__ = ["main"]

_PARENT = "NOMADIFF_LAUNCHER"  # process number of the torchrun that a process belongs to
_SAVING = "600"  # seconds that processes have to save their states in before they are killed; 30 by default


def main(words: list[str]) -> int:
    """torchrun, or one of its processes; returns the exit code."""
    count, parent, *rest = words
    ours = os.environ.get(_PARENT)
    _end_with(int(ours or parent))  # before the imports that take seconds
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # how the worker stops us: no traceback until there is a state to save
    if ours and hasattr(signal, "pthread_sigmask"):  # torchrun's own way to end the others when one has failed
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return _job(*rest) if ours else _torchrun(count, words)


def _torchrun(count: str, words: list[str]) -> int:
    os.environ |= {_PARENT: str(os.getpid()), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _SAVING}
    # what it says of signals and failures, the worker says in one line
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(["--standalone", "--nproc-per-node", count, "-m", "nomadiff.studies.together", *words]))
    except ChildFailedError:
        return 1
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _job(study: str, name: str, device: str, folder: str, *modules: str) -> int:
    from nomadiff.errors import Interrupted, NomadiffError
    from nomadiff.files import write_json
    from nomadiff.memory import keep_freed_memory
    from nomadiff.registry import import_plugin
    from nomadiff.studies.work import jobs_of

    keep_freed_memory()
    try:
        for module in modules:
            import_plugin(module)
        (job,) = (job for job in jobs_of(Path(study)) if job.name == name)
        job.run(device)
    except Interrupted as error:
        return error.exit_code
    except Exception as error:
        told = str(error) if isinstance(error, NomadiffError) else f"{type(error).__name__}: {error}"
        found = {"error": told, "traceback": traceback.format_exc(), "time": time.time()}
        write_json(Path(folder) / f"{os.environ['RANK']}.json", found)
        return 1
    return 0


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
