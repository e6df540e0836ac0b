"""SIMS Figure 4: self-improvement against guidance weight and fine-tuning budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from nomadiff.improve.confirmation import paired_gain
from nomadiff.metrics.distance_names import distance_in
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.sims_settings import CONVERGED, PAPER, PHOTOS, SHORT, SMOKE, Subject, improving
from nomadiff.reproduce.trials import Cost, Trial, trial_recipe, verdict_of
from nomadiff.tables import Table
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["RECIPE"]

_SPACES = ("function", "parameters")
_SUBJECTS = {
    "smoke": (SMOKE,),
    "small": (improving(SHORT, snapshots=2), improving(CONVERGED, snapshots=2)),
    "medium": (improving(PHOTOS, snapshots=2),),
    "paper": PAPER,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"weights": (1.0,)},
    "small": {"weights": (0.5, 1.0, 1.5, 2.0)},
    "medium": {"weights": (0.5, 1.0, 1.5)},
    "paper": {"weights": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)},
}


def _sweep(trial: Trial, weights: Sequence[float]) -> list[dict[str, Any]]:
    """All candidates of one base, and what the tool concludes on fresh noise at the weight that was fixed.

    A row has ``space``, ``weight`` (0 is the base), ``budget`` (images of fine-tuning; 0 for the base), ``seed``, the
    metrics and the cost of a sample.
    """
    candidates, score = trial.improved().candidates, trial.scorer()
    rows = [score(lambda: candidates.base, space="function", weight=0.0, budget=0, seed=trial.seed)]
    for budget in candidates.budgets:
        for space in _SPACES:
            for weight in weights:
                make = partial(candidates.make, budget, weight, space)
                rows.append(score(make, space=space, weight=weight, budget=budget, seed=trial.seed))
    if trial.reference.features is None:  # published statistics, which have no half to choose by
        return rows
    verdict = trial.improved(reference=trial.reference)
    assert verdict.gain is not None
    best = verdict.table.meta["best"]
    conclusion = {
        "seed": trial.seed,
        "sentence": verdict.sentence,
        "improves": verdict.gain.is_sure,
        **{name: best[name] for name in ("weight", "budget", "mean", "low", "high")},
    }
    return [*rows, conclusion]


def _cost(subject: Subject, weights: Sequence[float]) -> Cost:
    settings = subject.improvement
    bowl = settings.snapshots * len(weights)
    fresh = settings.confirmations
    what = f"{1 + 2 * bowl} candidates, then the tool's own conclusion"
    return Cost(what, plain=2 + bowl + fresh, guided=bowl + settings.snapshots + fresh)


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    distance = distance_in(table.fields)
    findings, figures = [], []
    for base in dict.fromkeys(row["base"] for row in table.rows):
        rows = [row for row in table.rows if row["base"] == base]
        plain = {row["seed"]: row for row in rows if row["weight"] == 0}
        findings += _findings(base, rows, plain, [row for row in verdicts.rows if row["base"] == base], distance)
        for space in _SPACES:
            guided = [row for row in rows if row["space"] == space and row["weight"]]
            budgets = dict.fromkeys(row["budget"] for row in guided)
            bowl = guided + [{**row, "budget": budget} for budget in budgets for row in plain.values()]
            for metric in (distance, "coverage"):
                if metric in table.fields:
                    svg = metric_lines(bowl, "weight", metric, by="budget", label=metric, x_label="guidance weight")
                    title = f"Base “{base}”, {space} space: {metric}"
                    figures.append(Figure(title, svg, "A line a budget (images of fine-tuning); weight 0 is the base."))
    shown = [{**row, "method": _name(row), "source": row["base"], "images_seen": row["budget"]} for row in table.rows]
    return Report(
        title="How far does a model improve itself?",
        subtitle="Recipe sims-figure-4: the base, and extrapolation away from its copy, over weight and budget.",
        table=Table(shown, table.meta),
        metrics=metric_infos(distance, {}),
        by=("method", "budget", "weight"),
        findings=findings,
        figures=figures,
        notes=(
            "Means over seeds, bands of one standard deviation: bases differ more than candidates of one base.",
            "All candidates of a seed share their noise, which nothing was chosen by.",
        ),
    )


def _name(row: dict[str, Any]) -> str:
    if row["weight"] == 0:
        return "base"
    return "sims" if row["space"] == "function" else "neon"


def _findings(
    base: str, rows: list[dict[str, Any]], plain: dict[int, dict[str, Any]], verdicts: list[dict[str, Any]], metric: str
) -> list[Finding]:
    """The gain of weight 1 in function space at each budget, and the tool's own conclusion."""
    result = []
    for budget in dict.fromkeys(row["budget"] for row in rows if row["weight"]):
        chosen = {
            row["seed"]: row
            for row in rows
            if row["space"] == "function" and row["weight"] == 1.0 and row["budget"] == budget
        }
        seeds = sorted(plain.keys() & chosen.keys())
        if len(seeds) < 2:
            continue
        gain = paired_gain([plain[s][metric] for s in seeds], [chosen[s][metric] for s in seeds])
        text = (
            f"Base “{base}”: SIMS at weight 1 after {budget:,} images changes {metric} by {-gain.mean:+.0%} on average "
            f"over {len(seeds)} seeds (95 % interval {-gain.high:+.0%} to {-gain.low:+.0%})"
        )
        if "coverage" in plain[seeds[0]]:
            cover = paired_gain(
                [plain[s]["coverage"] for s in seeds], [chosen[s]["coverage"] for s in seeds], higher=True
            )
            text += f", coverage by {cover.mean:+.0%}"
        result.append(Finding(text + ".", verdict_of(gain)))
    sure = sum(row["improves"] for row in verdicts)
    if verdicts:
        asked = f"asked for weight {verdicts[0]['weight']:g}"
        text = f"Base “{base}”: {asked}, the tool finds a sure gain in {sure} of {len(verdicts)} seeds"
        text += " and recommends keeping the base in the others." if sure < len(verdicts) else "."
        result.append(Finding(text, "good" if sure == len(verdicts) else "neutral"))
    return result


RECIPE = trial_recipe(
    "sims-figure-4",
    "SIMS Figure 4: distance against guidance weight, a line a budget, in function and parameter space",
    _SUBJECTS,
    _sweep,
    _cost,
    _report,
    _SETTINGS,
)
