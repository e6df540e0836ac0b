"""SIMS Figure 8: samples before and after a shift, from the same noise.

The weight is 1.5 on digits too: the paper's Figure 7 has 68 % there. Shares are counted on fresh noise. Beside the
report, ``base.png`` and ``shifted.png`` show the first seed's first 64 samples of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nomadiff.metrics.composition import composition
from nomadiff.metrics.detectors.features import classify
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.grids import save_grid
from nomadiff.reports.page import Finding, GridPanel, Report
from nomadiff.reproduce.sims_figure_7 import SUBJECTS, ShiftSubject, shifted
from nomadiff.reproduce.trials import Cost, Trial, scoring_seed, trial_recipe
from nomadiff.shift.complement import REST
from nomadiff.shift.shift import ALL
from nomadiff.tables import Table, summarise
from nomadiff.workflows.metric_infos import metric_infos
from nomadiff.workflows.shift import SHARE_METRICS, shown_rows

__all__ = ["RECIPE"]

_SHOWN = 64
_SUBJECTS = {
    scale: [replace(each, weights=(each.weight,)) for each in subjects] for scale, subjects in SUBJECTS.items()
}


def _pair(trial: Trial) -> list[dict[str, Any]]:
    """Base and shifted model of one seed, scored on fresh noise: a row a model and group.

    Fields are those of :class:`~nomadiff.shift.shift.Shifted`, ``method`` ("base" or "shifted"), and ``shown``: how
    many of the pictures belong to the group.
    """
    done, classifier = shifted(trial), trial.reference.classifier
    assert classifier is not None
    rows = []
    for name, model, weight in (("base", trial.base, 0.0), ("shifted", done.model, done.weight)):
        images = model.sample(_SHOWN, scoring_seed(trial.seed))
        shares = dict(
            zip(classifier.class_names, composition(classify(classifier, images), len(classifier.class_names)))
        )
        shown = {group.name: round(_SHOWN * sum(shares[one] for one in group.classes)) for group in done.groups}
        for row in done.table.rows:
            if row["noise"] == "fresh" and row["weight"] == weight:
                rows.append({"method": name, **row, "seed": trial.seed, "shown": shown.get(row["group"], _SHOWN)})
    return rows


def _cost(subject: ShiftSubject) -> Cost:
    what = f"base and shift at weight {subject.weight:g}, twice, and {_SHOWN} samples of each to look at"
    return Cost(what, plain=2, guided=2)


def _grids(trial: Trial) -> list[GridPanel]:
    """Samples of both models of a trial, from the same noise; written beside the report."""
    grids = []
    for name, model in (("base", trial.base), ("shifted", Model.load(trial.folder / "shifted", device=trial.device))):
        images = model.sample(_SHOWN, scoring_seed(trial.seed))
        save_grid(trial.folder.parents[1] / f"{name}.png", images, 8)
        weight = 0.0 if model.guidance is None else model.guidance.weight
        grids.append(GridPanel(name, f"weight {weight:g}", images, method=name))
    return grids


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    distance = distance_in(table.fields)
    findings = []
    for group in dict.fromkeys(row["group"] for row in table.rows if row["group"] not in (ALL, REST)):
        rows = [row for row in table.rows if row["group"] == group]
        before, after = summarise(rows, ["method"], ["share", "shown", "target"])
        findings.append(
            Finding(
                f"Share of “{group}”: {before['share']:.1%} at the base, {after['share']:.1%} shifted "
                f"(target {after['target']:.0%}, mean of {after['count']} seed(s)); of {_SHOWN} pictures "
                f"{before['shown']:.1f} and {after['shown']:.1f}."
            )
        )
    shown = [{**row, "source": row["group"]} for row in shown_rows(table.rows)]
    return Report(
        title="A model's samples, before and after a shift",
        subtitle="Recipe sims-figure-8: a fixed weight, the same noise for both.",
        table=Table(shown, table.meta),
        metrics=[*SHARE_METRICS, *metric_infos(distance, {})],
        block="group",
        grids=_grids(trials[0]),
        findings=findings,
        arms={
            "base": "The model as it was trained.",
            "shifted": "Extrapolated away from a copy fine-tuned on own samples in complementary composition.",
        },
        notes=("The pictures are the first of the set, not chosen.",),
    )


RECIPE = trial_recipe(
    "sims-figure-8",
    "SIMS Figure 8: samples before and after a distribution shift, from the same noise",
    _SUBJECTS,
    _pair,
    _cost,
    _report,
)
