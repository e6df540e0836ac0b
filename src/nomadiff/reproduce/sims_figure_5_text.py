"""Text of sims-figure-5 from its rows: sentences against the paper's numbers, and a table for each learner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nomadiff.loops.madness import LEVEL, converged_from
from nomadiff.plane.grid import Grid
from nomadiff.plane.learner import learner_config
from nomadiff.reports.markdown import interval, markdown_table, significant
from nomadiff.reproduce.plane_recipes import few_runs, ratio_text, verdict_text

__all__ = ["PAPER", "figure_5_text"]

PAPER = {125: (1.71, 0.996), 250: (2.46, 1.013), 500: (3.99, 1.078), 1000: (6.69, 1.204)}
"""MADness ratios the paper prints (section 4.2.1): n_s to (standard training, SIMS at its best weight)."""
_PAPER_WEIGHT = 3.0  # "a guidance parameter of ω ≈ 3"


def figure_5_text(
    scale: str, grid: Grid, summary: Sequence[dict[str, Any]], improvement: Sequence[dict[str, Any]]
) -> str:
    """What was and was not reproduced, in Markdown: for each learner self-improvement, MADness, and the paper's ratios.

    Args:
        scale: name of the scale, for the heading.
        grid: the loops.
        summary: a row a learner, weight and n_s, as ``summary.json`` has them.
        improvement: a row a learner, method and weight of the first generation, as ``improvement.json`` has them.
    """
    start = converged_from(grid.generations)
    parts = [
        f"# SIMS Figure 5, scale {scale}\n",
        f"{grid.runs} runs x {grid.generations} generations, |D_r| = 1000, every generation trained from scratch. "
        f"Distance: Bures-Wasserstein between {grid.evaluation_count} samples and the truth (exact samples score 0.058 "
        f"at 2000). G∞ is the mean over generations {start} to {grid.generations}. Brackets: {100 * LEVEL:.0f} % "
        "bootstrap over runs. The paper gives neither batch, learning rate nor network; each learner below says how it "
        "was chosen.\n",
    ]
    if grid.exact_count:
        parts.append(
            f"Columns called exact are exact optimal transport between {grid.exact_count} samples and as many true "
            f"ones. Between two sets of true samples it is {significant(grid.exact_floor(grid.cells[0]))}: below this "
            "floor nothing is seen, and near it ratios are pulled towards 1.\n"
        )
    parts += few_runs(grid.runs)
    for learner in dict.fromkeys(row["learner"] for row in summary):
        rows = [row for row in summary if row["learner"] == learner]
        parts += [
            f"## Learner {learner}\n",
            f"{learner} is {learner_config(learner).caption}.\n",
            _improvement_text([row for row in improvement if row["learner"] == learner]) + "\n",
            _verdict(rows) + "\n",
            "\n".join(_line(n_s, [row for row in rows if row["n_s"] == n_s]) for n_s in _sizes(rows)) + "\n",
            _table(rows) + "\n",
        ]
    return "\n".join(parts)


def _improvement_text(rows: Sequence[dict[str, Any]]) -> str:
    base = next(row for row in rows if row["method"] == "standard")
    sentences = []
    for method, name in (("sims", "SIMS"), ("neon", "Neon")):
        chosen = next(row for row in rows if row["method"] == method and row["chosen"])
        low, high = 100 * chosen["change_unseen_low"], 100 * chosen["change_unseen_high"]
        change = f"{100 * chosen['change_unseen']:+.0f} % [{low:+.0f}, {high:+.0f}]"
        if high < 0:
            sentences.append(f"{name} at ω = {chosen['weight']:g} changes the distance of generation 1 by {change}.")
        else:
            sentences.append(
                f"{name} has nothing to gain: at the best weight, {chosen['weight']:g}, the distance of generation 1 "
                f"changes by {change}; keep the base model."
            )
    return (
        f"**Self-improvement.** The base model's distance is {significant(base['g1_mean'])}. {' '.join(sentences)} "
        "(The weight was chosen on half of the runs, the change measured on the other half.)"
    )


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """The paragraph against the paper."""
    standard = [row for row in rows if row["method"] == "standard"]
    worse = [row for row in standard if row["certain"] and row["ratio"] > 1]
    best = {n_s: _smallest_ratio(rows, n_s) for n_s in _sizes(rows)}
    calmer = [row["n_s"] for row in worse if best[row["n_s"]]["ratio_high"] < row["ratio_low"]]
    held = [n_s for n_s, row in best.items() if row["ratio_low"] <= 1]
    if all(row.get("verdict") == "undecided" for row in standard):
        sentences = ["Undecided: so few runs or generations say nothing of the paper's claims."]
    elif not worse:
        sentences = [
            "Standard training does not deteriorate beyond doubt with this learner: there is no MADness to prevent, "
            "and the paper's growth is not reproduced."
        ]
    elif calmer:
        sentences = [
            f"Reproduced in kind: standard training deteriorates (n_s = {_listed(row['n_s'] for row in worse)}), and "
            f"SIMS holds the ratio beyond doubt lower (n_s = {_listed(calmer)})."
        ]
    else:
        sentences = ["Standard training deteriorates, and no weight tried holds the ratio beyond doubt lower."]
    if worse:
        sentences.append(
            f"Full prevention (a ratio of at most 1) is within the interval at n_s = {_listed(held)}."
            if held
            else "Full prevention (a ratio of at most 1) is not within the interval anywhere."
        )
    guided = [row for row in rows if row["method"] == "sims" and row["weight"] == _PAPER_WEIGHT]
    for known, column, name in (
        (standard, 0, "standard ratios"),
        (guided, 1, f"ratios of SIMS at ω = {_PAPER_WEIGHT:g}"),
    ):
        within = {
            row["n_s"]: row["ratio_low"] <= PAPER[row["n_s"]][column] <= row["ratio_high"]
            for row in known
            if row["n_s"] in PAPER
        }
        if outside := [n_s for n_s, inside in within.items() if not inside]:
            sentences.append(f"The paper's own {name} are outside the intervals at n_s = {_listed(outside)}.")
        elif within:
            sentences.append(f"The paper's own {name} are within the intervals.")
    return "**Against the paper.** " + " ".join(sentences)


def _line(n_s: int, rows: Sequence[dict[str, Any]]) -> str:
    """One size against the paper's numbers."""
    standard = next(row for row in rows if row["method"] == "standard")
    best = _smallest_ratio(rows, n_s)
    nearest = min((row for row in rows if row["method"] == "sims"), key=lambda row: row["g_inf_mean"])
    paper = PAPER.get(n_s)
    said = (f" (paper {paper[0]})", f" (paper {paper[1]}, ω ≈ 3)") if paper else ("", "")
    return (
        f"* n_s = {n_s}: standard training {ratio_text(standard)}{said[0]}; SIMS, smallest ratio, "
        f"ω = {best['weight']:g}: {ratio_text(best)}{said[1]}; smallest distance, ω = {nearest['weight']:g}: "
        f"{significant(nearest['g_inf_mean'])}, {significant(nearest['ratio_to_base'])} of the first generation's "
        "without SIMS"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["n_s", "ω", "G¹", "G∞", "G∞ median", "ratio", "interval", "of medians", "to G¹ at ω = 0", "verdict"]
    exact = ("exact_g1_mean", "exact_g_inf_mean", "exact_ratio") if "exact_ratio" in rows[0] else ()
    columns += ["exact G¹", "exact G∞", "exact ratio"] if exact else []
    lines = []
    for row in rows:
        means = (row["g1_mean"], row["g_inf_mean"], row["g_inf_median"], row["ratio"])
        others = (interval(row["ratio_low"], row["ratio_high"]), row["ratio_of_medians"], row["ratio_to_base"])
        lines.append(
            (row["n_s"], f"{row['weight']:g}", *means, *others, verdict_text(row), *(row[name] for name in exact))
        )
    return markdown_table(columns, lines)


def _smallest_ratio(rows: Sequence[dict[str, Any]], n_s: int) -> dict[str, Any]:
    return min((row for row in rows if row["method"] == "sims" and row["n_s"] == n_s), key=lambda row: row["ratio"])


def _sizes(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({row["n_s"] for row in rows})


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
