"""What the two-dimensional recipes share: sizes of a scale, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from nomadiff.errors import UsageError
from nomadiff.plane.grid import Grid

__all__ = ["at_scale", "cost_in_words", "cpu_seconds"]

# CPU seconds of the compiled kernel on one core of a processor with 512-bit vectors: a trained point, a network
# evaluation. Small batches cost a quarter more; processors with 256-bit vectors about twice as much.
_TRAINED_POINT, _EVALUATION, _SMALL_BATCH = 0.43e-6, 0.16e-6, 1.25


Sizes = TypeVar("Sizes")


def at_scale(scales: Mapping[str, Sizes], scale: str) -> Sizes:
    """The sizes of a scale.

    Raises:
        UsageError: there is no such scale.
    """
    if scale not in scales:
        raise UsageError(f"unknown scale '{scale}': choose one of {', '.join(scales)}")
    return scales[scale]


def cpu_seconds(grid: Grid) -> float:
    """Estimated cost of a grid on a CPU, in seconds of one core."""
    total = 0.0
    for cell in grid.cells:
        config = grid.config(cell.learner)
        own = config.synthetic_count
        generations_kept = grid.generations / 2 if cell.kind == "accumulation" else 1
        points = cell.n_r + cell.n_s * generations_kept
        guided = cell.weight > 0
        trained, evaluations = config.base.epochs * points, (grid.evaluation_count + cell.n_s) * 39
        if cell.method in ("sims", "neon") and guided:
            trained += config.auxiliary.epochs * own
        if cell.method in ("casd", "source-guidance"):
            trained += config.base.epochs * (points + own)
        if guided and cell.method != "neon":
            evaluations *= 2
        if guided or cell.method == "casd":
            evaluations += own * 39
        factor = _SMALL_BATCH if config.base.batch < 512 else 1.0
        total += trained * _TRAINED_POINT * factor + evaluations * _EVALUATION
    return total * grid.runs * grid.generations


def cost_in_words(seconds: float) -> str:
    """CPU seconds in words, such as "about 3 CPU minutes"."""
    for size, unit in ((3600.0, "CPU hours"), (60.0, "CPU minutes")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} CPU seconds"
