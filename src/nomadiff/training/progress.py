"""How far trainings are, by what they have written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nomadiff.errors import NomadiffError
from nomadiff.training.run_folder import PREPARATION, RunFolder

__all__ = ["progress_of"]

_LOGS = (
    "log.jsonl",
    "*/log.jsonl",
    f"{PREPARATION}/*/log.jsonl",
    "generation-*/model/log.jsonl",
    "generation-*/model/base/log.jsonl",
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
