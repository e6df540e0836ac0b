"""What the held-out loss says, in words."""

from __future__ import annotations

from nomadiff.monitoring.history import History
from nomadiff.reports.page import Finding

__all__ = ["findings"]

_SURE = 2.0  # standard errors
_LARGE = 0.05  # of the held-out loss: a gap below this is no sign of anything


def findings(history: History) -> list[Finding]:
    """Sentences on the held-out loss and on the gap between it and the training images' loss; empty without rows."""
    if not history.rows:
        return []
    last = history.rows[-1]
    return [_on_loss(history), _on_gap(last["held_out_loss"], last["gap"], last["gap_error"])]


def _on_loss(history: History) -> Finding:
    now, seen = history.rows[-1]["held_out_loss"], history.rows[-1]["images_seen"]
    told = f"Held-out loss {now:.4g} after {seen:,} images"
    best = min(history.rows, key=lambda row: row["held_out_loss"])
    if len(history.rows) == 1:
        return Finding(f"{told}.")
    if fell := history.still_falling:
        return Finding(f"{told}, still falling: {fell:.1%} over the last quarter of the training. Train longer.")
    if now <= best["held_out_loss"]:
        return Finding(f"{told}, the lowest so far.", "good")
    rise = now / best["held_out_loss"] - 1
    told += f", {rise:.1%} above its lowest, which was after {best['images_seen']:,} images."
    return Finding(told, "bad" if rise > _LARGE else "neutral")


def _on_gap(held_out: float, gap: float, error: float) -> Finding:
    part, wide = gap / held_out, _SURE * error / held_out
    told = f"At the same noise the loss on training images is {abs(part):.1%} (± {wide:.1%})"
    if gap > _SURE * error and part > _LARGE:
        return Finding(
            f"{told} lower than on held-out ones: the model knows the images it learns from better than others like "
            "them, an early sign of copying.",
            "bad",
        )
    if abs(gap) <= max(_SURE * error, _LARGE * held_out):
        side = "lower" if gap >= 0 else "higher"
        return Finding(f"{told} {side} than on held-out ones: no sign of copying.", "good")
    return Finding(f"{told} higher than on held-out ones: the validation images are easier than the training images.")
