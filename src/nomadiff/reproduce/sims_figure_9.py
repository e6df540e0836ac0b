"""SIMS Figure 9: size of the internal set, number of evaluations, decoder only, guidance in an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.page import Figure, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.sims_settings import (
    DIGITS_SHORT,
    PAPER,
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

DESCRIPTION = "SIMS Figure 9: synthetic size, NFE, decoder-only auxiliaries and limited intervals"

_DIGITS = (Subject("short", replace(DIGITS_SHORT, budget=25_600, snapshots=4), 1000, steps_budget=38_400),)
_SIZES = {"smoke": (32, 64), "small": (250, 500, 1000, 2000, 4000), "paper": (100_000, 400_000, 1_500_000)}
_STEPS = {"smoke": (3, 6), "small": (4, 6, 9, 18, 32), "paper": (8, 16, 20, 32)}
_SKIPPED = {"smoke": (0, 6), "small": (0, 3, 6, 9, 12), "paper": (0, 5, 10, 15, 20, 25)}

_PANELS = {
    "synthetic-count": "own samples",
    "nfe": "network evaluations",
    "train-part": "images of fine-tuning",
    "skip-first": "first steps without guidance",
    "skip-last": "last steps without guidance",
}


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
    """Vary one thing at a time around the fixed setting; interrupted and called again, it goes on.

    Writes ``table.json``, ``table.csv`` and ``report.html``. At the paper's scale the subject is ImageNet-64's EDM2-S,
    as in the paper.

    Args:
        out: folder.
        scale: "smoke", "small" or "paper".
        seeds: one base and its auxiliaries for each; by default 10 to 13, on which nothing was tuned.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        data: folder with the files of the paper's scale.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        One row a point: ``base``, ``panel``, ``x`` (its value along the axis), ``arm`` (which line), ``budget``,
        ``seed``, the metrics, ``nfe``, ``gflop``, ``mparams`` and ``seconds_per_image``.

    Raises:
        UsageError: no such scale.
        DataError: files are missing.
    """
    subjects = at_scale(scale, _DIGITS, SMOKE, PAPER[2:3])
    seeds = seeds_of(scale, seeds)
    sizes, steps, skipped = _SIZES[scale], _STEPS[scale], _SKIPPED[scale]
    if dry_run:
        lines = missing_files(subjects, data)
        for subject in subjects:
            what = (
                f"auxiliaries on {', '.join(map(str, sizes))} own samples and one of the decoder's end; steps "
                f"{', '.join(map(str, steps))}; no guidance in the first or last {', '.join(map(str, skipped))} steps"
            )
            guided = len(sizes) + len(steps) + 2 * subject.improvement.snapshots + 2 * len(skipped)
            lines.append(
                plan_line(subject, what, seeds=len(seeds), plain=1 + len(steps), guided=guided, copies=len(sizes) + 2)
            )
        return Table(meta={"plan": "\n".join(lines)})
    extra = {"sizes": sizes, "steps": steps, "skipped": skipped}
    table = run_seeds(
        "sims-figure-9", _points, subjects, seeds, out, processes=processes, data=data, device=device, **extra
    )
    table.meta["command"] = command
    table.write(out / "table.json")
    _report(table, command).write(out / "report.html")
    return table


def _points(
    subject: Subject,
    folder: Path,
    seed: int,
    data: Path | None,
    device: str | None,
    sizes: Sequence[int],
    steps: Sequence[int],
    skipped: Sequence[int],
) -> list[dict[str, Any]]:
    base = subject.base(folder, seed, data, device)
    made = improved(subject, folder / "improved", seed, base=base, device=device)
    ends = improved(subject, folder / "decoder", seed, base=base, device=device, train_part="decoder")
    budgets, weight, sampler = made.candidates.budgets, subject.weight, base.config.sampler
    middle = budgets[(len(budgets) - 1) // 2]
    levels = sampler.levels().tolist()
    rows = []
    score = scorer(folder, subject, subject.judge(data, device), scoring_seed(seed))

    def point(panel: str, x: float, arm: str, budget: int, make: Any, **more: Any) -> None:
        rows.append(score(make, panel=panel, x=x, arm=arm, budget=budget, seed=seed, **more))

    def base_model() -> Model:
        return made.candidates.base

    for count in sizes:
        own = improved(
            subject, folder / f"own-{count}", seed, base=base, device=device, synthetic_count=count
        ).candidates
        point("synthetic-count", count, "base", 0, base_model)
        point("synthetic-count", count, "sims", middle, lambda own=own: own.make(middle, weight))
    for number in steps:
        fewer = replace(sampler, steps=number)
        point("nfe", base.nfe(fewer), "base", 0, base_model, sampler=fewer)
        guided = made.candidates.make(middle, weight)
        point("nfe", guided.nfe(fewer), "sims", middle, lambda guided=guided: guided, sampler=fewer)
    for budget in budgets:
        for arm, candidates in (("all", made.candidates), ("decoder", ends.candidates)):
            point("train-part", budget, arm, budget, lambda c=candidates, b=budget: c.make(b, weight))
    for number in skipped:
        # between two levels, so that every call is clearly in or out; Heun's second call belongs to its first level
        high = (levels[number - 1] * levels[number]) ** 0.5 if number else 2 * levels[0]
        low = (levels[-2 - number] * levels[-1 - number]) ** 0.5 if number else 0.0
        for panel, interval in (("skip-first", (0.0, high)), ("skip-last", (low, 2 * levels[0]))):
            point(panel, number, "sims", middle, lambda i=interval: made.candidates.make(middle, weight, interval=i))
    return rows


def _report(table: Table, command: str) -> Report:
    distance = distance_in(table.fields)
    figures = []
    for panel, label in _PANELS.items():
        rows = [row for row in table.rows if row["panel"] == panel]
        svg = metric_lines(rows, "x", distance, by="arm", label=distance, x_label=label)
        figures.append(Figure(f"{distance} against {label}", svg, _CAPTIONS[panel]))
    shown = [{**row, "method": row["arm"], "source": row["panel"]} for row in table.rows]
    return Report(
        title="What can SIMS do without?",
        subtitle="Recipe sims-figure-9: one thing varied at a time around the fixed setting.",
        table=Table(shown, table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        by=("method", "x"),
        figures=figures,
        command=command,
        notes=("Means over seeds, bands of one standard deviation; all points of a seed share their noise.",),
    )


_CAPTIONS = {
    "synthetic-count": "Size of the internal set the copy learns from, at one budget.",
    "nfe": "Both with fewer or more solver steps; a guided step costs two evaluations.",
    "train-part": "All of the copy fine-tuned, or the end of its decoder only.",
    "skip-first": "The auxiliary is not called in the first steps, where noise is largest.",
    "skip-last": "The auxiliary is not called in the last steps, where noise is smallest.",
}
