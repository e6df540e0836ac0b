"""Every algorithm in self-consuming loops, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nomadiff.files import write_text
from nomadiff.loops.madness import LEVEL, bootstrap_ratio, converged_from
from nomadiff.plane.algorithms import ALGORITHMS
from nomadiff.plane.grid import Cell, Grid, GridResult
from nomadiff.plane.learner import learner_config
from nomadiff.reports.figures import keep_figure, quiet_panel
from nomadiff.reports.markdown import interval, markdown_table, significant
from nomadiff.reports.palette import INK, method_colours
from nomadiff.reproduce.plane_recipes import (
    about_loops,
    cpu_seconds,
    few_runs,
    loops,
    plan_text,
    plot_generations,
    ratio_text,
    sizes_of,
    verdict_text,
)
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.tables import Table

__all__ = ["RECIPE"]

_WEIGHTS = {"N": 2.0, "G": 0.5}
"""Guidance weight by learner, 1 where none is named; all were chosen before on other runs (docs/loops.md)."""

_KNOWING = ("real-only", "casd-provenance")
"""Methods that are told which data is synthetic. They are compared with each other, not with those that are not."""

_NAMES = {
    "standard": "standard training",
    "sims": "SIMS",
    "neon": "Neon",
    "casd": "CASD (own samples as source 1)",
    "casd-provenance": "CASD with provenance",
    "source-guidance": "source guidance",
    "real-only": "real only",
}

_EVALUATIONS = {"sims": 2, "source-guidance": 2}
"""Network evaluations a sampler step, 1 for all others."""


@dataclass(frozen=True)
class _Scale:
    runs: int
    generations: int
    sizes: tuple[int, ...]
    whole: bool


_SCALES = {
    "smoke": _Scale(2, 3, (125,), whole=False),
    "small": _Scale(16, 10, (125, 1000), whole=True),
    "paper": _Scale(1000, 100, (125, 250, 500, 1000), whole=True),
}


def _grid(request: Request) -> Grid:
    sizes = sizes_of(_SCALES, request, "runs", "generations")
    cells = [cell for learner in request.learners or ("P2", "G") for cell in _cells(learner, sizes)]
    return loops(request, cells, stream=4, runs=sizes.runs, generations=sizes.generations)


def _plan(request: Request) -> str:
    grid = _grid(request)
    return plan_text(f"{len(grid.cells)} loops x {grid.runs} runs x {grid.generations} generations", cpu_seconds(grid))


def _run(request: Request) -> Result:
    """Run every method in loops on common random numbers.

    All methods in the synthetic augmentation loop; those that use no provenance also in the other kinds of loop;
    standard training and SIMS also on the ring, whose shape mean and covariance do not show.

    Files: ``summary`` (a row a loop) and ``generations`` (a row a run and generation), JSON and CSV;
    ``comparison-LEARNER`` (PNG and SVG); ``summary.md``.

    Returns:
        The rows of ``summary``.
    """
    out, grid = request.out, _grid(request)
    result = grid.run(out, processes=request.processes)
    about = about_loops("loop-comparison", request, grid) | {"runs": grid.runs, "generations": grid.generations}
    summary = Table(_summary_rows(result), about)
    summary.write(out / "summary.json")
    for learner in dict.fromkeys(cell.learner for cell in grid.cells):
        keep_figure(_figure(learner, result), out / f"comparison-{learner}")
    text = _text(request.scale, result, summary.rows)
    write_text(out / "summary.md", text)
    return Result(summary, text)


def _cells(learner: str, sizes: _Scale) -> list[Cell]:
    def cell(method: str, n_s: int, **changes: Any) -> Cell:
        weight = _WEIGHTS.get(learner, 1.0) if ALGORITHMS[method].guided else 0.0
        return Cell(learner, method, weight, n_s, **changes)

    cells = [cell(method, n_s) for n_s in sizes.sizes for method in _NAMES]
    if sizes.whole:
        most = max(sizes.sizes)
        unaware = [method for method in _NAMES if method not in _KNOWING]
        for kind in ("fully synthetic", "fresh data", "accumulation"):
            cells += [cell(method, most, kind=kind) for method in unaware]
        cells += [cell(method, most, world="ring") for method in ("standard", "sims")]
    return cells


def _summary_rows(result: GridResult) -> list[dict[str, Any]]:
    rows = []
    for cell, row, sliced in zip(result.grid.cells, result.summary(), result.summary("sliced")):
        standard = replace(cell, method="standard", weight=0.0)
        last = _converged(result, cell)
        against, low, high = bootstrap_ratio(last, _converged(result, standard))
        fields = ("learner", "method", "weight", "n_s", "kind", "world", "runs", "generations", "g1_mean", "g_inf_mean")
        rest = ("g_inf_median", "ratio", "ratio_low", "ratio_high", "verdict", "certain")
        rows.append(
            {name: row[name] for name in (*fields, *rest)}
            | {"to_standard": against, "to_standard_low": low, "to_standard_high": high}
            | {"sliced_g1": sliced["g1_mean"], "sliced_g_inf": sliced["g_inf_mean"], "sliced_ratio": sliced["ratio"]}
            | {"evaluations": _EVALUATIONS.get(cell.method, 1), "knows_provenance": cell.method in _KNOWING}
        )
    return rows


def _converged(result: GridResult, cell: Cell) -> np.ndarray:
    """Each run's mean distance over the converged generations."""
    return result.curves(cell)[:, converged_from(result.grid.generations) - 1 :].mean(axis=1)


def _figure(learner: str, result: GridResult) -> Any:
    """One panel a loop, one line a method: the mean distance over generations."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in result.grid.cells:
        if cell.learner == learner:
            panels.setdefault((cell.world, cell.kind, cell.n_s), []).append(cell)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flat
    colours = method_colours(_NAMES)
    for axes, ((world_name, kind, n_s), cells) in zip(grid, panels.items()):
        quiet_panel(axes)
        for cell in cells:
            style = {"linestyle": "--" if cell.method in _KNOWING else "-", "color": colours[cell.method].light}
            plot_generations(axes, result.curves(cell).mean(axis=0), label=_NAMES[cell.method], **style)
        axes.set(ylabel="E[dist(Gᵗ)]")
        axes.set_title(f"{kind}, n_s = {n_s}, {world_name}", fontsize=10)
    for axes in list(grid):
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center")
    figure.suptitle(f"Loops with learner {learner}; mean of {result.grid.runs} runs", color=INK.light)
    return figure


def _text(scale: str, result: GridResult, summary: Sequence[dict[str, Any]]) -> str:
    grid = result.grid
    parts = [
        f"# Algorithms in self-consuming loops, scale {scale}\n",
        f"{grid.runs} runs x {grid.generations} generations on common random numbers, |D_r| = 1000, every generation "
        f"trained from scratch. Distance: Bures-Wasserstein of {grid.evaluation_count} samples to the truth; G∞ is the "
        f"mean over generations {converged_from(grid.generations)} to {grid.generations}; brackets are "
        f"{100 * LEVEL:.0f} % bootstrap over runs. A method is called better than standard training only if the whole "
        "interval of G∞ against standard training's G∞ in the same runs is below 1.\n",
    ]
    parts += few_runs(grid.runs)
    for learner in dict.fromkeys(row["learner"] for row in summary):
        mine = [row for row in summary if row["learner"] == learner]
        parts += [f"## Learner {learner}\n", f"{learner} is {learner_config(learner).caption}.\n"]
        parts += [_overview(mine) + "\n", _open_question(mine) + "\n"]
        loops: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for row in mine:
            loops.setdefault((row["world"], row["kind"], row["n_s"]), []).append(row)
        for (world_name, kind, n_s), rows in loops.items():
            parts.append(f"### {kind.capitalize()} loop, n_s = {n_s}, {world_name}\n\n{_paragraph(rows, world_name)}\n")
            parts.append(_table(rows) + "\n")
    return "\n".join(parts)


def _overview(rows: Sequence[dict[str, Any]]) -> str:
    """Over all loops of a learner: how often each method beats standard training, and where it fails."""
    sentences = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "standard"):
        mine = [row for row in rows if row["method"] == method]
        better = [row for row in mine if row["to_standard_high"] < 1]
        worse = [row for row in mine if row["to_standard_low"] > 1]
        least, most = min(row["to_standard"] for row in mine), max(row["to_standard"] for row in mine)
        sentence = (
            f"{_name(mine[0])} ends nearer to the truth than standard training in {len(better)} of {len(mine)} loops "
            f"and farther in {len(worse)} ({significant(least)} to {significant(most)} of its distance)"
        )
        if worse:
            sentence += f"; it fails in the {_listed(worse)}"
        sentences.append(sentence + ".")
    return "**In short.** " + " ".join(sentences)


def _listed(rows: Sequence[dict[str, Any]]) -> str:
    return "; ".join(f"{row['kind']} loop with n_s = {row['n_s']}, {row['world']}" for row in rows)


def _paragraph(rows: Sequence[dict[str, Any]], world_name: str) -> str:
    """One loop in sentences: which algorithms beat standard training, and which fail."""
    standard = next(row for row in rows if row["method"] == "standard")
    sentences = [
        f"Standard training goes from {significant(standard['g1_mean'])} to {significant(standard['g_inf_mean'])} "
        f"(ratio {ratio_text(standard)}: {verdict_text(standard)})."
    ]
    rivals = sorted((row for row in rows if row is not standard), key=lambda row: row["g_inf_mean"])
    better = [row for row in rivals if row["to_standard_high"] < 1]
    worse = [row for row in rivals if row["to_standard_low"] > 1]
    equal = [row for row in rivals if row not in better and row not in worse]
    if better:
        said = "; ".join(
            f"{_name(row)} at {significant(row['g_inf_mean'])}, {significant(row['to_standard'])} "
            f"{interval(row['to_standard_low'], row['to_standard_high'])} of standard training's, own ratio "
            f"{ratio_text(row)}, {verdict_text(row)}"
            for row in better
        )
        sentences.append(f"Nearer to the truth in the end: {said}.")
    if equal:
        sentences.append(f"Not distinguishable from standard training: {_joined(equal)}.")
    if worse:
        sentences.append(f"Farther than standard training: {_joined(worse)}.")
    if world_name == "ring":
        sentences.append(
            "Mean and covariance do not see the ring: sliced Wasserstein, which does, goes from "
            + "; ".join(
                f"{significant(row['sliced_g1'])} to {significant(row['sliced_g_inf'])} for {_NAMES[row['method']]}"
                for row in rows
            )
            + "."
        )
    return " ".join(sentences)


def _open_question(rows: Sequence[dict[str, Any]]) -> str:
    """CASD in a loop (the first open question of its paper), as far as the rows answer it."""
    sentences = []
    for n_s in sorted({row["n_s"] for row in rows}):
        here = {
            row["method"]: row
            for row in rows
            if (row["n_s"], row["kind"], row["world"]) == (n_s, "synthetic augmentation", "gaussian")
        }
        plain, told, alone = here["casd"], here["casd-provenance"], here["real-only"]
        sentences.append(
            f"at n_s = {n_s}, CASD that must take its own samples for the synthetic source ends at "
            f"{significant(plain['g_inf_mean'])} ({significant(plain['to_standard'])} of standard training's), CASD "
            f"that is told the provenance at {significant(told['g_inf_mean'])}, and training on the real part alone, "
            f"which needs the same knowledge, at {significant(alone['g_inf_mean'])}"
        )
    return "**CASD in a loop** (an open question of its paper): " + "; ".join(sentences) + "."


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = (
        "method",
        "NFE a step",
        "G¹",
        "G∞",
        "G∞ median",
        "ratio",
        "interval",
        "to standard",
        "interval",
        "verdict",
    )
    return markdown_table(
        columns,
        [
            (
                *(_name(row), row["evaluations"], row["g1_mean"], row["g_inf_mean"], row["g_inf_median"], row["ratio"]),
                interval(row["ratio_low"], row["ratio_high"]),
                row["to_standard"],
                interval(row["to_standard_low"], row["to_standard_high"]),
                verdict_text(row),
            )
            for row in sorted(rows, key=lambda row: row["g_inf_mean"])
        ],
    )


def _name(row: dict[str, Any]) -> str:
    name = _NAMES[row["method"]]
    if row["weight"]:
        name += f" (ω = {row['weight']:g})"
    return name + (", knows the provenance" if row["knows_provenance"] else "")


def _joined(rows: Sequence[dict[str, Any]]) -> str:
    return "; ".join(f"{_name(row)} at {significant(row['g_inf_mean'])}" for row in rows)


RECIPE = Recipe(
    name="loop-comparison",
    description=(
        "standard, SIMS, Neon, CASD, source guidance, real-only in every kind of loop, two learners, two worlds"
    ),
    scales=tuple(_SCALES),
    options=("seed", "runs", "generations", "processes", "learners", "device"),
    plan=_plan,
    run=_run,
)
