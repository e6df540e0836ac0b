"""SIMS Figure 5: self-improvement and MAD prevention of a two-dimensional Gaussian in a synthetic augmentation loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np

from nomadiff.files import write_text
from nomadiff.loops.madness import bootstrap_ratio
from nomadiff.plane.grid import Cell, Grid, GridResult
from nomadiff.reports.figures import keep_figure, logarithmic, quiet_panel
from nomadiff.reports.palette import INK, MUTED
from nomadiff.reproduce.plane_recipes import about_loops, cpu_seconds, loops, plan_text, plot_generations, sizes_of
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.reproduce.sims_figure_5_text import figure_5_text
from nomadiff.tables import Table

__all__ = ["RECIPE"]


@dataclass(frozen=True)
class _Scale:
    """Sizes of one scale; ``sizes`` and ``weights`` are of the loops, ``first_*`` of the first generation alone."""

    runs: int
    generations: int
    sizes: dict[str, tuple[int, ...]]
    weights: tuple[float, ...]
    first_runs: int
    first_weights: tuple[float, ...]


_ALL = (125, 250, 500, 1000)
_SCALES = {
    "smoke": _Scale(2, 3, {"P2": (125,), "G": (125,)}, (0.0, 1.0), 2, (0.0, 1.0)),
    "small": _Scale(
        24,
        12,
        {"N": _ALL, "P2": (125, 1000), "G": (125, 1000)},
        (0.0, 1.0, 2.0, 3.0),
        32,
        (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    ),
    "paper": _Scale(
        1000,
        100,
        {"N": _ALL, "P2": _ALL, "P": _ALL, "P0": _ALL, "G": _ALL},
        (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
        1000,
        (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    ),
}


def _sizes(request: Request) -> _Scale:
    sizes = sizes_of(_SCALES, request, "runs", "generations")
    if request.learners is not None:
        sizes = replace(sizes, sizes=dict.fromkeys(request.learners, _ALL))
    return sizes if request.runs is None else replace(sizes, first_runs=request.runs)


def _grids(request: Request) -> tuple[Grid, Grid]:
    """The first generation of SIMS and Neon at every weight, and the loops."""
    sizes = _sizes(request)
    first = [
        Cell(learner, method, weight)
        for learner in sizes.sizes
        for method in ("sims", "neon")
        for weight in sizes.first_weights
        if weight > 0 or method == "sims"
    ]
    later = [
        Cell(learner, "sims", weight, n_s)
        for learner, counts in sizes.sizes.items()
        for n_s in counts
        for weight in sizes.weights
    ]
    return (
        loops(request, first, stream=2, runs=sizes.first_runs, generations=1),
        loops(request, later, stream=1, runs=sizes.runs, generations=sizes.generations, exact=request.exact or 0),
    )


def _plan(request: Request) -> str:
    first, later = _grids(request)
    return plan_text(
        f"{len(later.cells)} loops x {later.runs} runs x {later.generations} generations, and {len(first.cells)} "
        f"settings of the first generation x {first.runs} runs",
        cpu_seconds(later) + cpu_seconds(first),
    )


def _run(request: Request) -> Result:
    """Run the loops and write tables, figures and ``summary.md``.

    Files: ``summary`` (a row a learner, weight and n_s), ``generations`` (a row a run and generation), ``improvement``
    (generation 1 against the weight) and ``first_generation`` (its runs), each JSON and CSV; a figure in the paper's
    layout for each learner (PNG and SVG). A learner that is asked for is run at all four sizes.

    Returns:
        The rows of ``summary``.
    """
    out, (first, later) = request.out, _grids(request)
    improvement = _improvement_rows(first.run(out, processes=request.processes, name="first_generation"))
    result = later.run(out, processes=request.processes)
    about = about_loops("sims-figure-5", request, later)
    Table(improvement, about | {"runs": first.runs}).write(out / "improvement.json")
    summary = Table(_summary_rows(result), about | {"runs": later.runs, "generations": later.generations})
    summary.write(out / "summary.json")
    for learner in _sizes(request).sizes:
        keep_figure(_figure(learner, result, improvement, summary.rows), out / f"figure-5-{learner}")
    text = figure_5_text(request.scale, later, summary.rows, improvement)
    write_text(out / "summary.md", text)
    return Result(summary, text)


_EXACT = ("g1_mean", "g_inf_mean", "ratio", "ratio_low", "ratio_high")


def _summary_rows(result: GridResult) -> list[dict[str, Any]]:
    """The rows of the issue: method is standard at weight 0, where SIMS and standard training are the same."""
    rows = []
    sliced = result.summary("sliced")
    exact = result.summary("exact") if result.grid.exact_count else [None] * len(sliced)
    whole = result.summary()
    base = {(row["learner"], row["n_s"]): row["g1_mean"] for row in whole if row["weight"] == 0}
    for row, other, transport in zip(whole, sliced, exact):
        rows.append(
            {
                "learner": row["learner"],
                "method": "sims" if row["weight"] else "standard",
                **{name: row[name] for name in ("weight", "n_s", "runs", "generations", "g1_mean")},
                **{name: row[name] for name in ("g_inf_mean", "g_inf_median", "ratio", "ratio_low", "ratio_high")},
                "g1_median": row["g1_median"],
                "ratio_of_medians": row["g_inf_median"] / row["g1_median"],
                "ratio_to_base": row["g_inf_mean"] / base[row["learner"], row["n_s"]],
                "sliced_ratio": other["ratio"],
                "verdict": row["verdict"],
                "certain": row["certain"],
            }
            | ({f"exact_{name}": transport[name] for name in _EXACT} if transport else {})
        )
    return rows


def _improvement_rows(result: GridResult) -> list[dict[str, Any]]:
    """Generation 1 of every weight against the same runs at weight 0.

    ``change`` is relative. A weight that is picked because it looks best looks better than it is: ``chosen`` marks the
    best on every other run, and its ``change_unseen`` is measured on the runs between, which had no part in the choice.
    """
    rows = []
    for cell in result.grid.cells:
        values = result.curves(cell)[:, 0]
        base = result.curves(Cell(cell.learner, "sims", 0.0))[:, 0]
        rivals = [other for other in result.grid.cells if (other.learner, other.method) == (cell.learner, cell.method)]
        best = min(rivals, key=lambda rival: result.curves(rival)[::2, 0].mean() if rival.weight else np.inf)
        row: dict[str, Any] = {
            "learner": cell.learner,
            "method": cell.method if cell.weight else "standard",
            "weight": cell.weight,
            "runs": len(values),
            "g1_mean": float(values.mean()),
            "g1_sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "g1_median": float(np.median(values)),
            "chosen": cell.weight > 0 and best == cell,
        }
        for suffix, part in (("", slice(None)), ("_unseen", slice(1, None, 2))):
            ratios = bootstrap_ratio(values[part], base[part]) if len(values) > 1 else (np.nan,) * 3
            names = (f"change{suffix}", f"change{suffix}_low", f"change{suffix}_high")
            row |= {name: ratio - 1 for name, ratio in zip(names, ratios)}
        rows.append(row)
    return rows


def _figure(
    learner: str, result: GridResult, improvement: Sequence[dict[str, Any]], summary: Sequence[dict[str, Any]]
) -> Any:
    """The paper's four panels: generation 1, convergence, and two curves over generations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    (first, converged), below = figure.subplots(2, 2)
    for axes in (first, converged, *below):
        quiet_panel(axes)

    rows = [row for row in improvement if row["learner"] == learner]
    for method, name, style in (("sims", "SIMS", "-o"), ("neon", "Neon", "--s")):
        line = [row for row in rows if row["method"] in (method, "standard")]
        errors = [(row["g1_sd"] or 0) / row["runs"] ** 0.5 for row in line]
        weights, means = [row["weight"] for row in line], [row["g1_mean"] for row in line]
        colour = "#7b3f9d" if method == "sims" else MUTED.light
        first.errorbar(weights, means, errors, fmt=style, color=colour, markersize=4, label=name)
    first.set(xlabel="weight ω", ylabel="E[dist(G¹)]", title="generation 1: self-improvement")
    first.legend(frameon=False)

    mine = [row for row in summary if row["learner"] == learner]
    sizes = sorted({row["n_s"] for row in mine})
    for shade, n_s in zip(np.linspace(0.75, 0.15, len(sizes)), sizes):
        line = [row for row in mine if row["n_s"] == n_s]
        converged.plot(
            [row["weight"] for row in line], [row["ratio"] for row in line], "-o", color=(shade, shade * 0.8, 0.6),
            markersize=4, label=f"n_s = {n_s}",
        )  # fmt: skip
    converged.axhline(1, color=INK.light, linewidth=0.8)
    converged.set(xlabel="weight ω", ylabel="E[dist(G∞)] / E[dist(G¹)]", title="at convergence")
    logarithmic(converged)
    converged.legend(frameon=False)

    # the paper shows 250 and 125
    shown = [n_s for n_s in (250, 125) if n_s in sizes] or sizes[:2]
    for axes, n_s in zip(below, shown):
        line = [row for row in mine if row["n_s"] == n_s]
        best = min(line, key=lambda row: row["ratio"])["weight"]
        others = cycle(("--", ":", "-."))
        for row in line:
            curve = result.curves(Cell(learner, "sims", row["weight"], n_s)).mean(axis=0)
            colour = "#2e8b57" if row["weight"] == 0 else "#7b3f9d" if row["weight"] == best else "#e08a2e"
            style = next(others) if row["weight"] not in (0, best) else "-"
            name = f"ω = {row['weight']:g}"
            plot_generations(axes, curve / curve[0], linestyle=style, color=colour, label=name)
        axes.axhline(1, color=INK.light, linewidth=0.8)
        axes.set(ylabel="E[dist(Gᵗ)] / E[dist(G¹)]", title=f"n_s = {n_s}")
        axes.margins(y=0.25)  # room for the legend
        axes.legend(frameon=False, ncols=4, loc="upper center", columnspacing=1.2, handlelength=1.6)
    for axes in below[len(shown) :]:
        axes.set_visible(False)
    runs = result.grid.runs
    figure.suptitle(f"SIMS Figure 5 with learner {learner}; {runs} runs, Bures-Wasserstein distance", color=INK.light)
    return figure


RECIPE = Recipe(
    name="sims-figure-5",
    description="SIMS Figure 5: a 2-D Gaussian learnt over and over from its own samples, with SIMS and without",
    scales=tuple(_SCALES),
    options=("seed", "runs", "generations", "processes", "learners", "exact", "device"),
    plan=_plan,
    run=_run,
)
