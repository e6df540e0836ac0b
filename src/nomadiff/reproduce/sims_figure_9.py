"""SIMS Figure 9: size of the internal set, number of evaluations, decoder only, guidance in an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.page import Figure, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.sims_settings import PAPER, PHOTOS, SHORT, SMOKE, Subject, improving
from nomadiff.reproduce.trials import Cost, Trial, trial_recipe
from nomadiff.tables import Table
from nomadiff.workflows.improve import COST_METRICS
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["RECIPE"]

_SUBJECTS = {
    "smoke": (SMOKE,),
    "small": (improving(SHORT, budget=25_600, snapshots=4),),
    "medium": (improving(PHOTOS, snapshots=2),),
    "paper": PAPER[2:3],  # ImageNet-64's EDM2-S, as in the paper
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"sizes": (32, 64), "steps": (3, 6), "skipped": (0, 6)},
    "small": {
        "sizes": (250, 500, 1000, 2000, 4000),
        "steps": (4, 6, 9, 18, 32),
        "skipped": (0, 3, 6, 9, 12),
        "fixed": 1,
    },
    "medium": {"sizes": (1000, 4000, 10_000), "steps": (6, 9, 18), "skipped": (0, 3, 6, 9)},
    "paper": {"sizes": (100_000, 400_000, 1_500_000), "steps": (8, 16, 20, 32), "skipped": (0, 5, 10, 15, 20, 25)},
}
_PANELS = {
    "synthetic-count": ("own samples", "Size of the internal set the copy learns from, at one budget."),
    "nfe": ("network evaluations", "Both with fewer or more solver steps; a guided step costs two evaluations."),
    "train-part": ("images of fine-tuning", "All of the copy fine-tuned, or the end of its decoder only."),
    "skip-first": (
        "first steps without guidance",
        "The auxiliary is not called in the first steps, where noise is largest.",
    ),
    "skip-last": (
        "last steps without guidance",
        "The auxiliary is not called in the last steps, where noise is smallest.",
    ),
}


def _points(
    trial: Trial, sizes: Sequence[int], steps: Sequence[int], skipped: Sequence[int], fixed: int = -1
) -> list[dict[str, Any]]:
    """One thing varied at a time around the fixed setting, in which the copy has learned for the budget ``fixed``.

    A row has ``panel``, ``x`` (its value along the axis), ``arm`` (which line), ``budget``, ``seed``, the metrics and
    the cost of a sample.
    """
    made, ends = trial.improved().candidates, trial.improved("decoder", train_part="decoder").candidates
    budgets, weight, sampler = made.budgets, trial.subject.weight, trial.base.config.sampler
    usual = budgets[fixed]
    levels = sampler.levels().tolist()
    rows, score = [], trial.scorer()

    def point(panel: str, x: float, arm: str, budget: int, make: Callable[[], Model], **more: Any) -> None:
        rows.append(score(make, panel=panel, x=x, arm=arm, budget=budget, seed=trial.seed, **more))

    def base() -> Model:
        return made.base

    point("synthetic-count", sizes[0], "base", 0, base)
    rows += [{**rows[0], "x": count} for count in sizes[1:]]  # it learns from none of them
    for count in sizes:
        own = made
        if count != trial.subject.improvement.synthetic_count:
            own = trial.improved(f"own-{count}", synthetic_count=count).candidates
        point("synthetic-count", count, "sims", usual, partial(own.make, usual, weight))
    for number in steps:
        fewer = replace(sampler, steps=number)
        point("nfe", trial.base.nfe(fewer), "base", 0, base, sampler=fewer)
        guided = partial(made.make, usual, weight)
        point("nfe", guided().nfe(fewer), "sims", usual, guided, sampler=fewer)
    for budget in budgets:
        for arm, candidates in (("all", made), ("decoder", ends)):
            point("train-part", budget, arm, budget, partial(candidates.make, budget, weight))
    for number in skipped:
        # between two levels, so that every call is clearly in or out; Heun's second call belongs to its first level
        high = (levels[number - 1] * levels[number]) ** 0.5 if number else 2 * levels[0]
        low = (levels[-2 - number] * levels[-1 - number]) ** 0.5 if number else 0.0
        for panel, interval in (("skip-first", (0.0, high)), ("skip-last", (low, 2 * levels[0]))):
            point(panel, number, "sims", usual, partial(made.make, usual, weight, interval=interval))
    return rows


def _cost(
    subject: Subject, sizes: Sequence[int], steps: Sequence[int], skipped: Sequence[int], fixed: int = -1
) -> Cost:
    what = (
        f"auxiliaries on {', '.join(map(str, sizes))} own samples and one of the decoder's end; steps "
        f"{', '.join(map(str, steps))}; no guidance in the first or last {', '.join(map(str, skipped))} steps"
    )
    guided = len(sizes) + len(steps) + 2 * subject.improvement.snapshots + 2 * len(skipped)
    copies = len({*sizes, subject.improvement.synthetic_count}) + 1
    return Cost(what, plain=1 + len(steps), guided=guided, copies=copies)


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    distance = distance_in(table.fields)
    figures = []
    for panel, (label, caption) in _PANELS.items():
        rows = [row for row in table.rows if row["panel"] == panel]
        svg = metric_lines(rows, "x", distance, by="arm", label=distance, x_label=label)
        figures.append(Figure(f"{distance} against {label}", svg, caption))
    shown = [{**row, "method": row["arm"], "source": row["panel"]} for row in table.rows]
    return Report(
        title="What can SIMS do without?",
        subtitle="Recipe sims-figure-9: one thing varied at a time around the fixed setting.",
        table=Table(shown, table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        by=("method", "x"),
        figures=figures,
        notes=("Means over seeds, bands of one standard deviation; all points of a seed share their noise.",),
    )


RECIPE = trial_recipe(
    "sims-figure-9",
    "SIMS Figure 9: synthetic size, NFE, decoder-only auxiliaries and limited intervals",
    _SUBJECTS,
    _points,
    _cost,
    _report,
    _SETTINGS,
)
