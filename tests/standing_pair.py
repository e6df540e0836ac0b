"""Two processes that torchrun started once, for all tests that need two: starting and importing takes most of the time.

As a script, under torchrun, it is one of the two: it does what it is told until its orders end. ``StandingPair`` gives
the orders.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["StandingPair"]


class StandingPair:
    """Starts both when they are first needed, and again after a failure.

    Args:
        folder: for orders and answers; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._launcher: subprocess.Popen[bytes] | None = None
        self._orders: list[Any] = []

    def __call__(self, *words: str, patience: float = 400) -> str:
        """Both do ``nomadiff WORDS``, or a script with arguments, in this folder and with this environment's cache.

        Returns:
            What they printed, the first process's lines first.

        Raises:
            AssertionError: one of them failed; with all that both said.
        """
        if self._launcher is None:
            self._start()
        assert self._launcher is not None
        self.count += 1
        order = {"number": self.count, "folder": os.getcwd(), "cache": os.environ["NOMADIFF_CACHE"], "words": words}
        for handle in self._orders:
            handle.write(json.dumps(order) + "\n")
            handle.flush()
        answers = [self.folder / f"{self.count}-{rank}" for rank in (0, 1)]
        until = time.monotonic() + patience
        while not all(path.exists() for path in answers):
            if self._launcher.poll() is not None or time.monotonic() > until:
                break
            time.sleep(0.01)
        if not all(path.exists() and path.read_text() == "0" for path in answers):
            self._launcher.terminate()
            self._launcher.wait(60)
            self._forget()
            raise AssertionError("".join(self._said("err")) + "".join(self._said("out")))
        return "".join(self._said("out"))

    def close(self) -> int | None:
        """End both in order; gives torchrun's exit code, None where they were never started."""
        launcher = self._launcher
        if launcher is None:
            return None
        self._forget()
        return launcher.wait(60)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        pipes = [self.folder / f"orders-{rank}" for rank in (0, 1)]
        for pipe in pipes:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(pipe)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / "torchrun", "wb") as log:
            self._launcher = subprocess.Popen(
                [*launcher, __file__, str(self.folder)], env=environment, stdout=log, stderr=log
            )
        # for reading, too: opening does not wait for the other end, which may never come
        self._orders = [open(os.open(pipe, os.O_RDWR), "w", encoding="utf-8") for pipe in pipes]  # noqa: SIM115

    def _forget(self) -> None:
        for handle in self._orders:
            handle.write("\n")
            handle.close()
        self._launcher, self._orders = None, []

    def _said(self, stream: str) -> list[str]:
        files = [self.folder / f"{self.count}-{rank}.{stream}" for rank in (0, 1)]
        return [path.read_text() for path in files if path.exists()]


def _do(words: list[str]) -> int:
    if not words[0].endswith(".py"):
        from nomadiff.cli import main

        return main(words)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _stand(folder: Path) -> None:
    rank = os.environ["RANK"]
    os.fsync = lambda descriptor: None  # as conftest.py
    with open(folder / f"orders-{rank}", encoding="utf-8") as orders:
        while line := orders.readline().strip():
            order = json.loads(line)
            os.chdir(order["folder"])
            os.environ["NOMADIFF_CACHE"] = order["cache"]
            answer = folder / f"{order['number']}-{rank}"
            for number, stream in ((1, "out"), (2, "err")):
                with open(answer.with_suffix(f".{stream}"), "wb") as handle:
                    os.dup2(handle.fileno(), number)
            code = _do(order["words"])
            sys.stdout.flush()
            sys.stderr.flush()
            part = answer.with_suffix(".part")
            part.write_text(str(code))
            part.rename(answer)
            if code:
                sys.exit(code)


if __name__ == "__main__":
    _stand(Path(sys.argv[1]))
