"""SIMS Table 1: the base and what SIMS makes of it, with evaluations, operations and parameters.

The paper's "+ ST" is not explained there and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomadiff.metrics.distance_names import distance_in
from nomadiff.reports.page import Report
from nomadiff.reproduce.sims_settings import CONVERGED, PAPER, PHOTOS, SHORT, SMOKE, Subject
from nomadiff.reproduce.trials import Cost, Trial, trial_recipe
from nomadiff.tables import Table
from nomadiff.workflows.improve import COST_METRICS
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["RECIPE"]

_SUBJECTS = {"smoke": (SMOKE,), "small": (SHORT, CONVERGED), "medium": (PHOTOS,), "paper": PAPER}


def _models(trial: Trial) -> list[dict[str, Any]]:
    """Base, SIMS and Neon, a row each: ``method``, ``seed``, the metrics and the cost of a sample."""
    candidates, weight = trial.improved().candidates, trial.subject.weight
    budget = candidates.budgets[-1]
    models = {
        "base": lambda: candidates.base,
        "sims": lambda: candidates.make(budget, weight),
        "neon": lambda: candidates.make(budget, weight, "parameters"),
    }
    score = trial.scorer()
    return [score(make, method=method, seed=trial.seed) for method, make in models.items()]


def _cost(subject: Subject) -> Cost:
    return Cost(f"base, sims and neon at weight {subject.weight:g}", plain=2, guided=1)


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    return Report(
        title="What does SIMS make of a model, and at what cost?",
        subtitle="Recipe sims-table-1: fixed weight and budget, the same noise for all models of a seed.",
        table=Table([{**row, "source": row["base"]} for row in table.rows], table.meta),
        metrics=[*metric_infos(distance_in(table.fields), {}), *COST_METRICS],
        arms={
            "base": "The model as it was trained.",
            "sims": "SIMS: extrapolation away from a copy fine-tuned on own samples; two networks are called.",
            "neon": "The same two sets of weights, merged into one network.",
        },
        notes=("Seconds are wall clock on the machine as it was; with jobs side by side they are too high.",),
    )


RECIPE = trial_recipe(
    "sims-table-1",
    "SIMS Table 1: base, SIMS and Neon with NFE, operations and parameters",
    _SUBJECTS,
    _models,
    _cost,
    _report,
)
