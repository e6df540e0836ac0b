"""SIMS Figure 5: self-improvement and MAD prevention of a two-dimensional Gaussian in a synthetic augmentation loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.experiments.plane_recipes import (
    cost_in_words,
    cpu_seconds,
    interval,
    keep_figure,
    markdown_table,
    significant,
)
from nomadiff.experiments.study import check_scale
from nomadiff.files import write_text
from nomadiff.loops.grid import Cell, Grid, GridResult
from nomadiff.loops.learner import learner_config
from nomadiff.loops.madness import bootstrap_interval, converged_from
from nomadiff.reports.palette import INK, MUTED, RULE
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["DESCRIPTION", "PAPER", "run"]

DESCRIPTION = "SIMS Figure 5: a 2-D Gaussian learnt over and over from its own samples, with SIMS and without"

PAPER = {125: (1.71, 0.996), 250: (2.46, 1.013), 500: (3.99, 1.078), 1000: (6.69, 1.204)}
"""MADness ratios the paper prints (section 4.2.1): n_s to (standard training, SIMS at its best weight)."""


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
    "small": _Scale(24, 12, {"P2": _ALL, "G": (125, 1000)}, (0.0, 1.0, 2.0), 32, (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "paper": _Scale(
        1000,
        100,
        {"P2": _ALL, "P": _ALL, "P0": _ALL, "G": _ALL},
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
    device: str = "cpu",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run the loops, write tables, figures and ``summary.md``; interrupted and called again, it goes on.

    Files in ``out``: ``summary`` (a row a learner, weight and n_s), ``generations`` (a row a run and generation),
    ``improvement`` (generation 1 against the weight) and ``first_generation`` (its runs), each JSON and CSV; a figure in
    the paper's layout for each learner (PNG and SVG).

    Args:
        out: folder to write to.
        scale: ``smoke`` (seconds), ``small`` (minutes on two cores) or ``paper`` (1000 runs x 100 generations).
        seed: seed of everything.
        runs: independent runs instead of the scale's.
        generations: generations instead of the scale's.
        processes: worker processes; None takes one for each core.
        learners: names of learners instead of the scale's, each with all four sizes.
        device: ``"cpu"``, or a PyTorch device, where all runs of a cell are computed together.
        dry_run: only say what would be done and what it costs.

    Returns:
        ``text`` (what summary.md says, or the plan of a dry run) and, unless it is a dry run, ``summary`` and
        ``improvement`` (rows).

    Raises:
        UsageError: unknown scale or learner, or ``out`` was begun with other settings.
    """
    check_scale(scale)
    sizes = _SCALES[scale]
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
    text = _text(scale, loops, summary, improvement)
    write_text(out / "summary.md", text)
    return {"text": text, "summary": summary, "improvement": improvement}


def _plan(loops: Grid, first: Grid) -> str:
    return (
        f"{len(loops.cells)} loops x {loops.runs} runs x {loops.generations} generations, and {len(first.cells)} settings "
        f"of the first generation x {first.runs} runs: {cost_in_words(cpu_seconds(loops) + cpu_seconds(first))} with the "
        "compiled kernel on a processor with 512-bit vectors; no files are needed"
    )


def _summary_rows(result: GridResult) -> list[dict[str, Any]]:
    """The rows of the issue: method is standard at weight 0, where SIMS and standard training are the same."""
    rows = []
    sliced = result.summary("sliced")
    whole = result.summary()
    base = {(row["learner"], row["n_s"]): row["g1_mean"] for row in whole if row["weight"] == 0}
    for row, other in zip(whole, sliced):
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
        )
    return rows


def _improvement_rows(result: GridResult) -> list[dict[str, Any]]:
    """Generation 1 of every weight against the same runs at weight 0."""
    rows = []
    for cell in result.grid.cells:
        values = result.curves(cell)[:, 0]
        base = result.curves(Cell(cell.learner, "sims", 0.0))[:, 0]
        low, high = bootstrap_interval(values - base)
        rows.append(
            {
                "learner": cell.learner,
                "method": cell.method if cell.weight else "standard",
                "weight": cell.weight,
                "runs": len(values),
                "g1_mean": float(values.mean()),
                "g1_sd": float(values.std(ddof=1)) if len(values) > 1 else None,
                "g1_median": float(np.median(values)),
                "change": float(values.mean() / base.mean() - 1),
                "change_low": low / float(base.mean()),
                "change_high": high / float(base.mean()),
            }
        )
    return rows


def _figure(
    learner: str, result: GridResult, improvement: Sequence[dict[str, Any]], summary: Sequence[dict[str, Any]]
) -> Any:
    """The paper's four panels: generation 1, convergence, and two curves over generations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    (first, converged), below = figure.subplots(2, 2)
    for axes in (first, converged, *below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE.light)
        axes.tick_params(colors=MUTED.light)
        axes.grid(axis="y", color=RULE.light, linewidth=0.8)
        axes.set_axisbelow(True)

    rows = [row for row in improvement if row["learner"] == learner]
    for method, style in (("sims", "-o"), ("neon", "--s")):
        line = [row for row in rows if row["method"] in (method, "standard")]
        errors = [(row["g1_sd"] or 0) / row["runs"] ** 0.5 for row in line]
        weights, means = [row["weight"] for row in line], [row["g1_mean"] for row in line]
        colour = "#7b3f9d" if method == "sims" else MUTED.light
        first.errorbar(
            weights, means, errors, fmt=style, color=colour, markersize=4, label=method.replace("sims", "SIMS")
        )
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
    converged.set(xlabel="weight ω", ylabel="E[dist(G∞)] / E[dist(G¹)]", title="at convergence", yscale="log")
    converged.legend(frameon=False)

    # the paper shows 250 and 125
    shown = [n_s for n_s in (250, 125) if n_s in sizes] or sizes[:2]
    for axes, n_s in zip(below, shown):
        line = [row for row in mine if row["n_s"] == n_s]
        best = min(line, key=lambda row: row["ratio"])["weight"]
        for row in line:
            curve = result.curves(Cell(learner, "sims", row["weight"], n_s)).mean(axis=0)
            colour = "#2e8b57" if row["weight"] == 0 else "#7b3f9d" if row["weight"] == best else "#e08a2e"
            axes.plot(np.arange(1, len(curve) + 1), curve / curve[0], color=colour, label=f"ω = {row['weight']:g}")
        axes.axhline(1, color=INK.light, linewidth=0.8)
        axes.set(xlabel="generation t", ylabel="E[dist(Gᵗ)] / E[dist(G¹)]", title=f"n_s = {n_s}", yscale="log")
        axes.legend(frameon=False)
    for axes in below[len(shown) :]:
        axes.set_visible(False)
    runs = result.grid.runs
    figure.suptitle(f"SIMS Figure 5 with learner {learner}; {runs} runs, Bures-Wasserstein distance", color=INK.light)
    return figure


def _text(scale: str, grid: Grid, summary: Sequence[dict[str, Any]], improvement: Sequence[dict[str, Any]]) -> str:
    """What was and was not reproduced, in sentences made from the rows."""
    learners = list(dict.fromkeys(row["learner"] for row in summary))
    parts = [
        f"# SIMS Figure 5, scale {scale}\n",
        f"{grid.runs} runs x {grid.generations} generations, |D_r| = 1000, each generation from scratch; distance "
        f"{grid.evaluation_count} samples to the truth (Bures-Wasserstein; floor 0.058 at 2000), G∞ = mean over "
        f"generations {converged_from(grid.generations)} to {grid.generations}; brackets are 5-95 % bootstrap over runs. "
        "The paper gives neither batch, learning rate nor network; each learner below says how it was chosen.\n",
    ]
    for learner in learners:
        rows = [row for row in summary if row["learner"] == learner]
        firsts = [row for row in improvement if row["learner"] == learner]
        parts.append(f"## Learner {learner}\n\n{learner_config(learner).caption}.\n")
        parts.append(_improvement_text(firsts) + "\n")
        parts.append(_against_the_paper(rows) + "\n")
        parts.append(
            markdown_table(
                ["n_s", "ω", "G¹", "G∞", "G∞ median", "ratio", "5-95 %", "of medians", "to base's G¹", "verdict"],
                [
                    (row["n_s"], f"{row['weight']:g}", row["g1_mean"], row["g_inf_mean"], row["g_inf_median"])
                    + (row["ratio"], interval(row["ratio_low"], row["ratio_high"]), row["ratio_of_medians"])
                    + (row["ratio_to_base"], row["verdict"] + ("" if row["certain"] else " (uncertain)"))
                    for row in rows
                ],
            )
            + "\n"
        )
    return "\n".join(parts)


def _improvement_text(rows: Sequence[dict[str, Any]]) -> str:
    base = next(row for row in rows if row["method"] == "standard")
    sentences = []
    for method, name in (("sims", "SIMS"), ("neon", "Neon")):
        tried = [row for row in rows if row["method"] == method]
        gains = [row for row in tried if row["change_high"] < 0]
        if not gains:
            sentences.append(
                f"{name} has nothing to gain in generation 1: no weight tried lowers the base's distance of "
                f"{significant(base['g1_mean'])} beyond doubt; keep the base model."
            )
            continue
        best = min(gains, key=lambda row: row["g1_mean"])
        sentences.append(
            f"{name} improves generation 1 from {significant(base['g1_mean'])} to {significant(best['g1_mean'])} at ω = "
            f"{best['weight']:g} ({100 * best['change']:+.0f} %, "
            f"[{100 * best['change_low']:+.0f}, {100 * best['change_high']:+.0f}] over {best['runs']} runs; ω was chosen "
            "on these runs)."
        )
    return "**Self-improvement.** " + " ".join(sentences)


def _against_the_paper(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for n_s in sorted({row["n_s"] for row in rows}):
        here = [row for row in rows if row["n_s"] == n_s]
        standard = next(row for row in here if row["method"] == "standard")
        guided = [row for row in here if row["method"] == "sims"]
        line = (
            f"n_s = {n_s}: standard training {significant(standard['ratio'])} "
            f"{interval(standard['ratio_low'], standard['ratio_high'])}"
        )
        paper = PAPER.get(n_s)
        if paper:
            line += f" (paper {paper[0]})"
        if guided:
            best = min(guided, key=lambda row: row["ratio"])
            nearest = min(guided, key=lambda row: row["g_inf_mean"])
            line += (
                f"; SIMS at its smallest ratio (ω = {best['weight']:g}) {significant(best['ratio'])} "
                f"{interval(best['ratio_low'], best['ratio_high'])}"
            )
            if paper:
                line += f" (paper {paper[1]} at ω ≈ 3)"
            line += (
                f", at its smallest distance (ω = {nearest['weight']:g}) {significant(nearest['g_inf_mean'])}, "
                f"{significant(nearest['ratio_to_base'])} of the base's first"
            )
        lines.append("* " + line)
    standard = [row for row in rows if row["method"] == "standard"]
    mad = [row for row in standard if row["certain"] and row["ratio"] > 1]
    guided = [row for row in rows if row["method"] == "sims" and row["weight"] > 0]
    best_guided = [
        min((row for row in guided if row["n_s"] == one["n_s"]), key=lambda row: row["ratio"]) for one in mad
    ]
    if not mad:
        verdict = (
            "Not reproduced: standard training does not deteriorate beyond doubt with this learner, so there is no "
            "MADness to prevent."
        )
    else:
        calmer = [
            one["n_s"] for one, other in zip(mad, best_guided) if other["ratio_high"] < one["ratio_low"]
        ]  # fmt: skip
        held = [row["n_s"] for row in best_guided if row["ratio_low"] <= 1]
        verdict = (
            f"Reproduced in kind: standard training deteriorates (n_s = {_listed([row['n_s'] for row in mad])}) and SIMS "
            f"keeps the ratio beyond doubt lower (n_s = {_listed(calmer)})"
            if calmer
            else "Standard training deteriorates, and no weight tried keeps the ratio beyond doubt lower"
        )
        verdict += (
            f"; it is compatible with full prevention at n_s = {_listed(held)}."
            if held
            else "; prevention is not seen."
        )
    known = [(one, PAPER[one["n_s"]][0]) for one in standard if one["n_s"] in PAPER]
    off = [one["n_s"] for one, paper in known if not one["ratio_low"] <= paper <= one["ratio_high"]]
    verdict += (
        f" The paper's standard ratio lies outside the interval at n_s = {_listed(off)}."
        if off
        else " The paper's standard ratios lie within the intervals."
    )
    return "**Against the paper.** " + verdict + "\n\n" + "\n".join(lines)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
