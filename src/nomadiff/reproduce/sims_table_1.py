"""SIMS Table 1: the base and what SIMS makes of it, with evaluations, operations and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nomadiff.metrics.distance_names import distance_in
from nomadiff.reports.page import Report
from nomadiff.reproduce.sims_settings import (
    DIGITS_SHORT,
    SMOKE,
    Subject,
    at_scale,
    improved,
    missing_files,
    plan_line,
    run_seeds,
    scorer,
    scoring_seed,
    seeds_of,
)
from nomadiff.tables import Table
from nomadiff.workflows.improve import COST_METRICS
from nomadiff.workflows.judging import metric_infos

__all__ = ["DESCRIPTION", "run"]

DESCRIPTION = "SIMS Table 1: base, SIMS and Neon with NFE, operations and parameters"

_DIGITS = (
    Subject("short", DIGITS_SHORT, 1000, steps_budget=38_400),
    Subject("converged", DIGITS_SHORT, 1000, steps_budget=153_600),
)


def run(
    out: Path,
    *,
    scale: str = "small",
    seeds: Sequence[int] | None = None,
    processes: int | None = None,
    device: str | None = None,
    data: Path | None = None,
    command: str = "",
    dry_run: bool = False,
) -> Table:
    """Improve every base at its fixed weight and budget and score it; interrupted and called again, it goes on.

    Writes ``table.json``, ``table.csv`` and ``report.html``. The paper's "+ ST" is not explained there and left out.

    Args:
        out: folder.
        scale: "smoke", "small" or "paper".
        seeds: one base, auxiliary and set of scores for each; by default 10 to 13, on which nothing was tuned.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        data: folder with the files of the paper's scale.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        One row a model and seed: ``base``, ``method`` ("base", "sims", "neon"), ``seed``, the metrics, ``nfe``,
        ``gflop``, ``mparams`` and ``seconds_per_image``.

    Raises:
        UsageError: no such scale.
        DataError: files are missing.
    """
    subjects = at_scale(scale, _DIGITS, SMOKE)
    seeds = seeds_of(scale, seeds)
    if dry_run:
        lines = missing_files(subjects, data)
        lines += [
            plan_line(
                subject,
                f"base, sims and neon at weight {subject.weight:g}",
                seeds=len(seeds),
                plain=2,
                guided=1,
            )
            for subject in subjects
        ]
        return Table(meta={"plan": "\n".join(lines)})
    table = run_seeds("sims-table-1", _models, subjects, seeds, out, processes=processes, data=data, device=device)
    table.meta["command"] = command
    table.write(out / "table.json")
    distance = distance_in(table.fields)
    Report(
        title="What does SIMS make of a model, and at what cost?",
        subtitle="Recipe sims-table-1: fixed weight and budget, the same noise for all models of a seed.",
        table=Table([{**row, "source": row["base"]} for row in table.rows], table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        arms={
            "base": "The model as it was trained.",
            "sims": "SIMS: extrapolation away from a copy fine-tuned on own samples; two networks are called.",
            "neon": "The same two sets of weights, merged into one network.",
        },
        command=command,
        notes=("Seconds are wall clock on the machine as it was; with jobs side by side they are too high.",),
    ).write(out / "report.html")
    return table


def _models(subject: Subject, folder: Path, seed: int, data: Path | None, device: str | None) -> list[dict[str, Any]]:
    base = subject.base(folder, seed, data, device)
    made = improved(subject, folder / "improved", seed, base=base, device=device)
    budget = made.candidates.budgets[-1]
    models = {
        "base": lambda: made.candidates.base,
        "sims": lambda: made.candidates.make(budget, subject.weight),
        "neon": lambda: made.candidates.make(budget, subject.weight, "parameters"),
    }
    score = scorer(folder, subject, subject.judge(data, device), scoring_seed(seed))
    return [score(make, method=method, seed=seed) for method, make in models.items()]
