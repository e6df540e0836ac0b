"""SIMS Figure 5: self-improvement and MAD prevention of a two-dimensional Gaussian in a synthetic augmentation loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.files import write_text
from nomadiff.loops.madness import bootstrap_ratio, converged_from
from nomadiff.plane.grid import Cell, Grid, GridResult
from nomadiff.reports.figures import keep_figure, logarithmic, quiet_panel
from nomadiff.reports.palette import INK, MUTED
from nomadiff.reproduce.plane_recipes import at_scale, cost_in_words, cpu_seconds
from nomadiff.reproduce.sims_figure_5_text import figure_5_text
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["DESCRIPTION", "run"]

DESCRIPTION = "SIMS Figure 5: a 2-D Gaussian learnt over and over from its own samples, with SIMS and without"


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


def run(
    out: Path,
    *,
    scale: str = "small",
    seed: int = 0,
    runs: int | None = None,
    generations: int | None = None,
    processes: int | None = None,
    learners: Sequence[str] | None = None,
    exact: int = 0,
    device: str = "cpu",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run the loops, write tables, figures and ``summary.md``; interrupted and called again, it goes on.

    Files in ``out``: ``summary`` (a row a learner, weight and n_s), ``generations`` (a row a run and generation),
    ``improvement`` (generation 1 against the weight) and ``first_generation`` (its runs), each JSON and CSV; a figure
    in the paper's layout for each learner (PNG and SVG).

    Args:
        out: folder to write to.
        scale: ``smoke`` (seconds), ``small`` (minutes on two cores) or ``paper`` (1000 runs x 100 generations).
        seed: seed of everything.
        runs: independent runs instead of the scale's.
        generations: generations instead of the scale's.
        processes: worker processes; None takes one for each core.
        learners: names of learners instead of the scale's, each with all four sizes.
        exact: also measure every generation of the loops by exact optimal transport of this many samples.
        device: ``"cpu"``, or a PyTorch device, where all runs of a cell are computed together.
        dry_run: only say what would be done and what it costs.

    Returns:
        ``text`` (what summary.md says, or the plan of a dry run) and, unless it is a dry run, ``summary`` and
        ``improvement`` (rows).

    Raises:
        UsageError: unknown scale or learner, or ``out`` was begun with other settings.
    """
    sizes = at_scale(_SCALES, scale)
    sizes = replace(sizes, runs=runs or sizes.runs, generations=generations or sizes.generations)
    if runs is not None:
        sizes = replace(sizes, first_runs=runs)
    if learners is not None:
        sizes = replace(sizes, sizes=dict.fromkeys(learners, _ALL))
    if sizes.generations < 2:
        raise UsageError("a loop that can go MAD needs at least two generations")
    loops = Grid(
        cells=tuple(
            Cell(learner, "sims", weight, n_s)
            for learner, counts in sizes.sizes.items()
            for n_s in counts
            for weight in sizes.weights
        ),
        runs=sizes.runs,
        generations=sizes.generations,
        exact_count=exact,
        seed=mixed_seed(seed, 1),
        device=device,
        block=1 if device == "cpu" else sizes.runs,
    )
    first = Grid(
        cells=tuple(
            Cell(learner, method, weight)
            for learner in sizes.sizes
            for method in ("sims", "neon")
            for weight in sizes.first_weights
            if weight > 0 or method == "sims"
        ),
        runs=sizes.first_runs,
        generations=1,
        seed=mixed_seed(seed, 2),
        device=device,
        block=1 if device == "cpu" else sizes.first_runs,
    )
    if dry_run:
        return {"text": _plan(loops, first)}
    improvement = _improvement_rows(first.run(out, processes=processes, name="first_generation"))
    result = loops.run(out, processes=processes, name="generations")
    summary = _summary_rows(result)
    about = {
        "recipe": "sims-figure-5",
        "scale": scale,
        "seed": seed,
        "converged_from": converged_from(loops.generations),
    }
    Table(improvement, about | {"runs": first.runs}).write(out / "improvement.json")
    Table(summary, about | {"runs": loops.runs, "generations": loops.generations}).write(out / "summary.json")
    for learner in sizes.sizes:
        keep_figure(_figure(learner, result, improvement, summary), out / f"figure-5-{learner}")
    text = figure_5_text(scale, loops, summary, improvement)
    write_text(out / "summary.md", text)
    return {"text": text, "summary": summary, "improvement": improvement}


def _plan(loops: Grid, first: Grid) -> str:
    cost = cost_in_words(cpu_seconds(loops) + cpu_seconds(first))
    return (
        f"{len(loops.cells)} loops x {loops.runs} runs x {loops.generations} generations, and {len(first.cells)} "
        f"settings of the first generation x {first.runs} runs: {cost} with the compiled kernel on a processor with "
        "512-bit vectors; no files are needed"
    )


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
            axes.plot(np.arange(1, len(curve) + 1), curve / curve[0], style, color=colour, label=name)
        axes.axhline(1, color=INK.light, linewidth=0.8)
        axes.set(xlabel="generation t", ylabel="E[dist(Gᵗ)] / E[dist(G¹)]", title=f"n_s = {n_s}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        logarithmic(axes)
        axes.margins(y=0.25)  # room for the legend
        axes.legend(frameon=False, ncols=4, loc="upper center", columnspacing=1.2, handlelength=1.6)
    for axes in below[len(shown) :]:
        axes.set_visible(False)
    runs = result.grid.runs
    figure.suptitle(f"SIMS Figure 5 with learner {learner}; {runs} runs, Bures-Wasserstein distance", color=INK.light)
    return figure
