"""What the two-dimensional recipes share: sizes asked for, loops in a grid, what they cost, and words for results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.loops.madness import converged_from
from nomadiff.plane.grid import Cell, Grid
from nomadiff.reports.figures import logarithmic
from nomadiff.reports.markdown import interval, significant
from nomadiff.reproduce.recipe import Request
from nomadiff.seeding import mixed_seed

__all__ = [
    "EVALUATION",
    "TRAINED_POINT",
    "about_loops",
    "cost_in_words",
    "cpu_seconds",
    "few_runs",
    "loops",
    "plan_text",
    "plot_generations",
    "ratio_text",
    "sizes_of",
    "verdict_text",
]

# CPU seconds of the compiled kernel on one core of a processor with 512-bit vectors: a trained point, a network
# evaluation. Small batches cost a quarter more; processors with 256-bit vectors about twice as much.
TRAINED_POINT, EVALUATION, _SMALL_BATCH = 0.43e-6, 0.16e-6, 1.25

Sizes = TypeVar("Sizes")


def sizes_of(scales: Mapping[str, Sizes], request: Request, *fields: str) -> Sizes:
    """The sizes of a scale, but for those of ``fields`` that are asked for.

    Raises:
        UsageError: no run, or fewer than two generations.
    """
    given = {name: getattr(request, name) for name in fields if getattr(request, name) is not None}
    if given.get("runs", 1) < 1:
        raise UsageError(f"{given['runs']} runs show nothing: ask for one at least")
    if given.get("generations", 2) < 2:
        raise UsageError("a loop that can go MAD needs at least two generations")
    return replace(scales[request.scale], **given)  # type: ignore[type-var]


def loops(request: Request, cells: Iterable[Cell], *, stream: int, runs: int, generations: int, exact: int = 0) -> Grid:
    """The grid of a recipe's loops; ``stream`` keeps its randomness apart from other grids'."""
    device = request.device or "cpu"
    return Grid(
        cells=tuple(cells),
        runs=runs,
        generations=generations,
        exact_count=exact,
        seed=mixed_seed(request.seed or 0, stream),
        device=device,
        block=1 if device == "cpu" else runs,
    )


def about_loops(recipe: str, request: Request, grid: Grid) -> dict[str, Any]:
    """The meta of a table about a grid's loops."""
    start = converged_from(grid.generations)
    return {"recipe": recipe, "scale": request.scale, "seed": request.seed or 0, "converged_from": start}


def plan_text(what: str, seconds: float) -> str:
    """A plan: what is done, and CPU seconds in words."""
    return (
        f"{what}: {cost_in_words(seconds)} with the compiled kernel on a processor with 512-bit vectors; no files are "
        "needed"
    )


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
        total += trained * TRAINED_POINT * factor + evaluations * EVALUATION
    return total * grid.runs * grid.generations


def cost_in_words(seconds: float) -> str:
    """CPU seconds in words, such as "about 3 CPU minutes"."""
    for size, unit in ((3600.0, "CPU hours"), (60.0, "CPU minutes")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} CPU seconds"


def plot_generations(axes: Any, curve: np.ndarray, **style: Any) -> None:
    """A curve over the generations 1, 2, ... in a panel (matplotlib) whose other axis is logarithmic."""
    axes.plot(np.arange(1, len(curve) + 1), curve, **style)
    axes.set(xlabel="generation t")
    axes.xaxis.get_major_locator().set_params(integer=True)
    logarithmic(axes)


def few_runs(runs: int) -> list[str]:
    """The warning that a text begins with if there are too few runs to conclude anything."""
    return [f"**{runs} runs show that the recipe runs, nothing else.**\n"] if runs < 8 else []


def ratio_text(row: Mapping[str, Any]) -> str:
    """The ratio of a loop's end to its beginning, with its interval."""
    return f"{significant(row['ratio'])} {interval(row['ratio_low'], row['ratio_high'])}"


def verdict_text(row: Mapping[str, Any]) -> str:
    """Whether a loop went MAD, and if that is uncertain."""
    return row["verdict"] if row["certain"] else f"{row['verdict']}, uncertain"
