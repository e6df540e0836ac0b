"""What the recipes of the two-dimensional world share: what they cost, how figures are kept, how numbers are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nomadiff.errors import UsageError
from nomadiff.files import atomic_path
from nomadiff.loops.grid import Grid
from nomadiff.reports.palette import MUTED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "at_scale",
    "cost_in_words",
    "cpu_seconds",
    "interval",
    "keep_figure",
    "logarithmic",
    "markdown_table",
    "quiet_panel",
    "significant",
]

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
    """Roughly what a grid costs on a CPU, in seconds of one core."""
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
    """A number of CPU seconds as one says it."""
    for size, unit in ((3600.0, "CPU hours"), (60.0, "CPU minutes")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} CPU seconds"


def quiet_panel(axes: Axes) -> None:
    """The house style of a panel: two faint spines, a faint horizontal grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE.light)
    axes.tick_params(colors=MUTED.light)
    axes.grid(axis="y", color=RULE.light, linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def keep_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``<path>.png`` and ``<path>.svg``, the same bytes every time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "nomadiff"}):
        for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], bbox_inches="tight", **options)


def significant(value: float) -> str:
    """Three significant digits, without an exponent for numbers a table of distances has."""
    if value != value or value in (float("inf"), float("-inf")):
        return "diverged"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(low: float, high: float) -> str:
    """A 5-95 % interval in brackets."""
    return f"[{significant(low)}, {significant(high)}]"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [significant(cell) if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
