"""SIMS Figure 7: share of each group, and distance group by group, against the guidance weight.

On digits the paper's set-up is repeated one to one: two groups of about half each, digits 0 to 4 and 5 to 9, and a
target of 70 % for the first. Settings were fixed on seeds 0 and 1. The base is trained for 800 steps: on seed 0 a copy
of the 300-step base of the other recipes did not learn the composition of its set (it drew 42 to 46 % where the set
had 33 %, after 100 to 800 steps at 5e-4 to 2e-3), and a copy of this one nearly did (36 % where the set had 29 %).
On photographs the groups are vehicles (four of ten classes) and animals; nothing was tuned there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nomadiff.metrics.distance_names import distance_in
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reproduce.data_files import NeededFile
from nomadiff.reproduce.sims_settings import DIGITS_SHORT, PAPER, PHOTOS, Subject
from nomadiff.reproduce.trials import Cost, Trial, trial_recipe
from nomadiff.shift.complement import REST
from nomadiff.shift.settings import Shift
from nomadiff.shift.shift import ALL, Shifted, shift
from nomadiff.tables import Table, summarise
from nomadiff.workflows.metric_infos import metric_infos
from nomadiff.workflows.shift import SHARE_METRICS, shift_figures, shown_rows

__all__ = ["RECIPE", "SUBJECTS", "ShiftSubject", "shifted"]


@dataclass(frozen=True)
class ShiftSubject(Subject):
    """A base model and how its composition is shifted.

    Attributes:
        target: groups and the share of each.
        weights: guidance weights to try.
    """

    target: tuple[tuple[str, float], ...] = ()
    weights: tuple[float, ...] = (-1.0, 0.5, 1.0, 1.5, 2.0)


_DIGITS = ShiftSubject(
    "half",
    replace(DIGITS_SHORT, budget=25_600, learning_rate=1e-3),
    1000,
    102_400,
    weight=1.5,
    target=(("0,1,2,3,4", 0.7),),
)
_SMOKE = replace(
    _DIGITS,
    improvement=replace(DIGITS_SHORT, synthetic_count=64, budget=256),
    count=64,
    base_budget=256,
    target=(("0,1,2,3,4", 0.9),),
    weights=(-1.0, 1.0),
)
_FFHQ = PAPER[1]
_FACES = NeededFile("ffhq-64x64.zip", "FFHQ at 64x64 as EDM's dataset_tool.py writes it (70,000 images)")
_GENDER = NeededFile(
    "fairface-gender.pt",
    "FairFace's ResNet-34 (Karkkainen and Joo 2021), its two gender logits traced to TorchScript with the "
    "resizing and scaling it needs; class 0 is male, 1 is female",
)
# SIMS section 4.3: EDM-VP on FFHQ-64, 140k own samples, 70 % of them male; 50 Mi of fine-tuning. The reference is all
# of FFHQ-64, as in the paper: images, since distances are measured group by group
_PAPER = ShiftSubject(
    "ffhq64-gender",
    replace(_FFHQ.improvement, synthetic_count=140_000, budget=50_000_000, snapshots=1),
    # the paper scores 35,000 of each gender; of so many samples subsets of 17,600 women and 10,500 men are scored,
    # whose distances are somewhat larger
    70_000,
    preset=_FFHQ.preset,
    model=_FFHQ.model,
    train="",
    reference=_FACES.name,
    detector="inception",
    classifier=_GENDER.name,
    weight=1.5,
    files=(_FFHQ.files[0], _FACES, _GENDER),
    target=(("1", 0.7),),
    weights=(-1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
)
# the paper moves groups of one half to 70 %; four of ten classes are 40 %
_PHOTOS = ShiftSubject(**vars(PHOTOS) | {"weight": 1.5, "target": (("airplane,automobile,ship,truck", 0.6),)})
SUBJECTS = {"smoke": (_SMOKE,), "small": (_DIGITS,), "medium": (_PHOTOS,), "paper": (_PAPER,)}
"""What is shifted, by scale."""


def shifted(trial: Trial) -> Shifted:
    """The shift of a trial's base, in its folder."""
    subject, own, reference = trial.subject, trial.subject.improvement, trial.reference
    assert isinstance(subject, ShiftSubject) and reference.classifier is not None
    settings = Shift(
        target=dict(subject.target),
        synthetic_count=own.synthetic_count,
        budget=own.budget,
        learning_rate=own.learning_rate,
        weights=subject.weights,
        count=subject.count,
        seed=trial.seed,
    )
    return shift(
        trial.base,
        trial.folder / "shifted",
        settings,
        classifier=reference.classifier,
        reference=reference,
        device=trial.device,
    )


def _sweep(trial: Trial) -> list[dict[str, Any]]:
    """Sweep and conclusion of one base: a row a weight and group, as of :class:`~nomadiff.shift.shift.Shifted`.

    ``seed`` is that of the base, ``noise_seed`` that of the samples.
    """
    done = shifted(trial)
    sweep = [row for row in done.table.rows if row["noise"] == "sweep"]
    rows = [{**row, "noise_seed": row["seed"], "seed": trial.seed} for row in sweep]
    conclusion = {"seed": trial.seed, "weight": done.weight, "is_reached": done.is_reached, "sentence": done.sentence}
    return [*rows, conclusion]


def _cost(subject: ShiftSubject) -> Cost:
    targets = ", ".join(f"'{name}' to {share:.0%}" for name, share in subject.target)
    what = f"{targets}; weights {', '.join(f'{weight:g}' for weight in subject.weights)}"
    return Cost(what, plain=3, guided=len(subject.weights))


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    distance = distance_in(table.fields)
    findings: list[Finding] = []
    figures: list[Figure] = []
    for base in dict.fromkeys(row["base"] for row in table.rows):
        rows = [row for row in table.rows if row["base"] == base]
        findings += _findings(base, rows, [row for row in verdicts.rows if row["base"] == base], distance)
        figures += shift_figures(rows, f"Base “{base}”: ")
    shown = [{**row, "method": row["base"]} for row in shown_rows(table.rows)]
    return Report(
        title="Does the composition follow the target, and at what cost?",
        subtitle="Recipe sims-figure-7: extrapolation away from a copy of complementary composition, over the weight.",
        table=Table(shown, table.meta),
        metrics=[*SHARE_METRICS, *metric_infos(distance, {})],
        by=("method", "weight"),
        block="group",
        findings=findings,
        figures=figures,
        notes=(
            "Means over seeds, bands of one standard deviation; all weights of a seed share their noise.",
            "Weight 0 is the base, -1 the copy alone. “all” is measured against real images of the old composition, so "
            "the shift itself counts as distance there; the groups are measured against real images of the same group.",
            "Metrics of a group are means over subsets of one size, so that its share does not change them; compare "
            "them with one another, not with those of “all”.",
        ),
    )


def _findings(base: str, rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], distance: str) -> list[Finding]:
    """The share of each group, its distance at the weight that is best for it, and how often the target was reached."""
    result = []
    for group in dict.fromkeys(row["group"] for row in rows if row["group"] not in (ALL, REST)):
        means = summarise([row for row in rows if row["group"] == group], ["weight"], ["share", "target"])
        path = ", ".join(f"{mean['share']:.1%} at {mean['weight']:g}" for mean in means)
        result.append(Finding(f"Base “{base}”: share of “{group}” (target {means[0]['target']:.0%}): {path}."))
    for group in dict.fromkeys(row["group"] for row in rows):
        of_group = [row for row in rows if row["group"] == group and row["weight"] >= 0]
        means = [mean for mean in summarise(of_group, ["weight"], [distance]) if mean[distance] is not None]
        if means and (plain := next((mean for mean in means if mean["weight"] == 0), None)):
            best = min(means, key=lambda mean: mean[distance])
            last = f"{plain[distance]:.3g} at the base, least {best[distance]:.3g} at weight {best['weight']:g}"
            result.append(Finding(f"Base “{base}”: {distance} of “{group}”: {last}."))
    reached = sum(row["is_reached"] for row in verdicts)
    text = f"Base “{base}”: the target is reached in {reached} of {len(verdicts)} seeds"
    weights = ", ".join(f"{row['weight']:g}" for row in verdicts)
    result.append(Finding(f"{text}, at weights {weights}.", "good" if reached == len(verdicts) else "neutral"))
    return result


RECIPE = trial_recipe(
    "sims-figure-7",
    "SIMS Figure 7: share of each group and distance group by group, against guidance weight",
    SUBJECTS,
    _sweep,
    _cost,
    _report,
)
