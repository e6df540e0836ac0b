"""SIMS Figure 7: share of each group, and distance group by group, against the guidance weight.

On digits the paper's set-up is repeated one to one: two groups of about half each, digits 0 to 4 and 5 to 9, and a
target of 70 % for the first. Settings were fixed on seeds 0 and 1. The base is trained for 800 steps: on seed 0 a copy
of the 300-step base of the other recipes did not learn the composition of its set (it drew 42 to 46 % where the set
had 33 %, after 100 to 800 steps at 5e-4 to 2e-3), and a copy of this one nearly did (36 % where the set had 29 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.metrics.distance_names import distance_in
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reproduce.sims_settings import (
    DIGITS_SHORT,
    PAPER,
    Subject,
    at_scale,
    missing_files,
    plan_line,
    run_seeds,
    seeds_of,
)
from nomadiff.reproduce.study import NeededFile
from nomadiff.shift.complement import REST
from nomadiff.shift.shift import ALL, Shift, Shifted, shift
from nomadiff.tables import Table, summarise
from nomadiff.workflows.judging import metric_infos
from nomadiff.workflows.shift import SHARE_METRICS, shift_figures, shown_rows

__all__ = ["DESCRIPTION", "DIGITS", "PAPER_FACES", "SMOKE_DIGITS", "ShiftSubject", "run", "shifted"]

DESCRIPTION = "SIMS Figure 7: share of each group and distance group by group, against guidance weight"

_WEIGHTS = (-1.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class ShiftSubject(Subject):
    """A base model and how its composition is shifted.

    Attributes:
        target: groups and the share of each.
        weights: guidance weights to try.
        classifier: name of the classifier, or its file in ``--data``.
    """

    target: tuple[tuple[str, float], ...] = ()
    weights: tuple[float, ...] = _WEIGHTS
    classifier: str = "digits"

    def files(self) -> list[NeededFile]:
        """The files it reads from ``--data``: with the reference's images, as distances are measured by group."""
        if not self.model:
            return []
        return [
            *super().files(),
            NeededFile(
                self.classifier,
                "FairFace's ResNet-34 (Karkkainen and Joo 2021), its two gender logits traced to TorchScript with the "
                "resizing and scaling it needs; class 0 is male, 1 is female",
            ),
        ]

    def judge(self, data: Path | None, device: str | None) -> ReferenceSet:
        """Reference images; of the paper's subject all of FFHQ-64, as the paper measures."""
        if not self.model:
            return super().judge(data, device)
        assert data is not None
        images = ImageSource.open(data / self.reference, name="reference", synthetic=False).pixels
        classifier = str(data / self.classifier)
        return ReferenceSet(images, detector=self.detector, classifier=classifier, device=device or "cpu")

    def settings(self, seed: int) -> Shift:
        """Settings of the shift."""
        own = self.improvement
        return Shift(
            target=dict(self.target),
            synthetic_count=own.synthetic_count,
            budget=own.budget,
            learning_rate=own.learning_rate,
            weights=self.weights,
            count=self.count,
            seed=seed,
        )


DIGITS = ShiftSubject(
    "half",
    replace(DIGITS_SHORT, budget=25_600, learning_rate=1e-3),
    1000,
    steps_budget=102_400,
    weight=1.5,
    target=(("0,1,2,3,4", 0.7),),
)
SMOKE_DIGITS = replace(
    DIGITS,
    improvement=replace(DIGITS_SHORT, synthetic_count=64, budget=256),
    count=64,
    steps_budget=256,
    target=(("0,1,2,3,4", 0.9),),
    weights=(-1.0, 1.0),
)
_FFHQ = PAPER[1]
PAPER_FACES = ShiftSubject(
    "ffhq64-gender",
    replace(_FFHQ.improvement, synthetic_count=140_000, budget=50_000_000, snapshots=1),
    70_000,  # the paper: 35,000 of each gender
    model=_FFHQ.model,
    reference="ffhq-64x64.zip",
    detector="inception",
    weight=1.5,
    origin="FFHQ at 64x64 as EDM's dataset_tool.py writes it (70,000 images)",
    network=_FFHQ.network,
    steps=_FFHQ.steps,
    target=(("1", 0.7),),
    weights=(-1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    classifier="fairface-gender.pt",
)
"""SIMS section 4.3: EDM-VP on FFHQ-64, 140k own samples, 70 % of them male; 50 Mi of fine-tuning."""


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
    """Shift every base and sweep the weight; interrupted and called again, it goes on.

    Writes ``table.json``, ``table.csv``, ``verdicts.json`` (what ``shift`` itself concludes for each base) and
    ``report.html``.

    Args:
        out: folder.
        scale: "smoke", "small" or "paper".
        seeds: one base, copy and sweep for each; by default 10 to 13, on which nothing was tuned.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        data: folder with the files of the paper's scale.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        The sweep, one row a weight and group, as of :class:`~nomadiff.shift.shift.Shifted`, with ``base`` (the
        subject) and ``seed`` (of the base; ``noise_seed`` is that of the samples).

    Raises:
        UsageError: no such scale.
        DataError: files are missing.
    """
    subjects = at_scale(scale, (DIGITS,), (SMOKE_DIGITS,), (PAPER_FACES,))
    seeds = seeds_of(scale, seeds)
    if dry_run:
        lines = missing_files(subjects, data)
        for subject in subjects:
            targets = ", ".join(f"'{name}' to {share:.0%}" for name, share in subject.target)
            what = f"{targets}; weights {', '.join(f'{weight:g}' for weight in subject.weights)}"
            lines.append(plan_line(subject, what, seeds=len(seeds), plain=3, guided=len(subject.weights)))
        return Table(meta={"plan": "\n".join(lines)})
    table = run_seeds("sims-figure-7", _sweep, subjects, seeds, out, processes=processes, data=data, device=device)
    verdicts = Table([row for row in table.rows if "sentence" in row], table.meta)
    table.rows = [row for row in table.rows if "sentence" not in row]
    table.meta["command"] = command
    table.write(out / "table.json")
    verdicts.write(out / "verdicts.json")
    _report(table, verdicts, command).write(out / "report.html")
    return table


def shifted(
    subject: ShiftSubject, folder: Path, seed: int, data: Path | None, device: str | None
) -> tuple[Model, Shifted]:
    """The base of a subject and its shift, in ``folder``."""
    base = subject.base(folder, seed, data, device)
    reference = subject.judge(data, device)
    assert reference.classifier is not None
    settings = subject.settings(seed)
    return base, shift(
        base, folder / "shifted", settings, classifier=reference.classifier, reference=reference, device=device
    )


def _sweep(
    subject: ShiftSubject, folder: Path, seed: int, data: Path | None, device: str | None
) -> list[dict[str, Any]]:
    """Sweep and conclusion of one base."""
    done = shifted(subject, folder, seed, data, device)[1]
    rows = [{**row, "noise_seed": row["seed"], "seed": seed} for row in done.table.rows if row["noise"] == "sweep"]
    conclusion = {"seed": seed, "weight": done.weight, "is_reached": done.is_reached, "sentence": done.sentence}
    return [*rows, conclusion]


def _report(table: Table, verdicts: Table, command: str) -> Report:
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
        command=command,
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
