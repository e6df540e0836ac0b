"""What was measured at the snapshots of a run: ``validation.jsonl``, the same after a kill and a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomadiff.files import atomic_path, read_json_lines
from nomadiff.metrics.distance_names import distance_in

__all__ = ["HISTORY_NAME", "History"]

HISTORY_NAME = "validation.jsonl"

_LEAST = 1e-4  # a relative change of the loss below this is none
_FALLING, _FAST = 0.01, 0.05  # of the held-out loss, over the last quarter of a training: it falls, and falls fast


def _is_measurement(row: Mapping[str, Any]) -> bool:
    numbers = [row.get(name) for name in ("held_out_loss", "gap", "gap_error")]
    whole = type(row.get("images_seen")) is int and 0 < row["images_seen"] < 1 << 63
    return whole and all(type(each) is float and abs(each) < 1e30 for each in numbers) and row["held_out_loss"] > 0


class History:
    """Rows of ``images_seen``, ``held_out_loss`` and what else was measured, ascending.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY_NAME
        self.rows: list[dict[str, Any]] = []
        self.read()

    def read(self) -> None:
        """Read the file; lines that are no measurements are left out."""
        self.rows = [row for row in read_json_lines(self.path) if _is_measurement(row)]

    def trim(self, images_seen: int) -> None:
        """Forget what came after ``images_seen``."""
        kept = [row for row in self.rows if row["images_seen"] <= images_seen]
        if len(kept) < len(self.rows):
            self.rows = kept
            self.write()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row; one of the same images seen is replaced."""
        self.rows = [each for each in self.rows if each["images_seen"] < row["images_seen"]] + [dict(row)]

    def write(self) -> None:
        """Write the file in one atomic step."""
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def measured(self, best_by: str) -> list[tuple[int, float]]:
        """Images seen and the figure that decides, lower is better, where it was measured.

        Scores by another detector, or of another number of samples, than the last ones have another scale.
        """
        if best_by == "loss":
            return [(row["images_seen"], row["held_out_loss"]) for row in self.rows]
        scored = [(row, name) for row in self.rows if (name := distance_in(row)) and isinstance(row.get(name), float)]
        scales = [(name, row.get("samples")) for row, name in scored]
        return [(row["images_seen"], row[name]) for (row, name), scale in zip(scored, scales) if scale == scales[-1]]

    def best(self, best_by: str) -> int | None:
        """Images seen by the best snapshot, the first of equal ones; None if none was measured."""
        found = self.measured(best_by)
        return min(found, key=lambda each: each[1])[0] if found else None

    def stopped_at(self, best_by: str, patience: int | None) -> int | None:
        """Images seen when ``patience`` measurements in a row had brought nothing better; None if that never was."""
        best, since = float("inf"), 0
        for images_seen, value in self.measured(best_by):
            since = 0 if value < best * (1 - _LEAST) else since + 1
            best = min(best, value)
            if patience is not None and since >= patience:
                return images_seen
        return None

    @property
    def falls_fast(self) -> bool:
        """Whether the held-out loss falls so much that this is hardly a trained model yet."""
        return self.still_falling > _FAST

    @property
    def still_falling(self) -> float:
        """The part by which the held-out loss fell over the last quarter of the images; 0 where it hardly did."""
        rows = self.rows
        if not rows:
            return 0.0
        early = [row for row in rows if row["images_seen"] <= 0.75 * rows[-1]["images_seen"]]
        if not early:
            return 0.0
        before, now = early[-1]["held_out_loss"], rows[-1]["held_out_loss"]
        lowest = min(row["held_out_loss"] for row in rows)
        fell = (before - now) / before
        return fell if fell > _FALLING and now == lowest else 0.0
