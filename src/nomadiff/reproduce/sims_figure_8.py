"""SIMS Figure 8: samples before and after a shift, from the same noise.

The weight is 1.5 on digits too: the paper's Figure 7 has 68 % there. Shares are counted on fresh noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.metrics.composition import composition
from nomadiff.metrics.detectors import classify
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.grids import save_grid
from nomadiff.reports.page import Finding, GridPanel, Report
from nomadiff.reproduce.sims_figure_7 import DIGITS, PAPER_FACES, SMOKE_DIGITS, ShiftSubject, shifted
from nomadiff.reproduce.sims_settings import (
    at_scale,
    missing_files,
    plan_line,
    run_seeds,
    scoring_seed,
    seeds_of,
)
from nomadiff.shift.complement import REST
from nomadiff.shift.shift import ALL
from nomadiff.tables import Table, summarise
from nomadiff.workflows.judging import metric_infos
from nomadiff.workflows.shift import SHARE_METRICS, shown_rows

__all__ = ["DESCRIPTION", "run"]

DESCRIPTION = "SIMS Figure 8: samples before and after a distribution shift, from the same noise"

_SHOWN = 64


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
    """Shift every base at a fixed weight and draw both; interrupted and called again, it goes on.

    Writes ``base.png`` and ``shifted.png`` (the first seed's first 64 samples of each, the same noise at the same
    position), ``table.json``, ``table.csv`` and ``report.html``.

    Args:
        out: folder.
        scale: "smoke", "small" or "paper".
        seeds: one base and copy for each; by default 10 to 13, on which nothing was tuned.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        data: folder with the files of the paper's scale.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        One row a model, seed and group: ``base`` (the subject), ``method`` ("base" or "shifted"), ``group`` ("all" for
        the whole set), ``weight``, ``share`` with its interval, distances and the rest as of
        :class:`~nomadiff.shift.shift.Shifted`, and ``shown``, how many of the 64 pictures belong to the group.

    Raises:
        UsageError: no such scale.
        DataError: files are missing.
    """
    chosen = at_scale(scale, (DIGITS,), (SMOKE_DIGITS,), (PAPER_FACES,))
    subjects = tuple(replace(subject, weights=(subject.weight,)) for subject in chosen)
    seeds = seeds_of(scale, seeds)
    if dry_run:
        lines = missing_files(subjects, data)
        for subject in subjects:
            what = f"base and shift at weight {subject.weight:g}, twice, and {_SHOWN} samples of each to look at"
            lines.append(plan_line(subject, what, seeds=len(seeds), plain=2, guided=2))
        return Table(meta={"plan": "\n".join(lines)})
    table = run_seeds("sims-figure-8", _pair, subjects, seeds, out, processes=processes, data=data, device=device)
    table.meta["command"] = command
    table.write(out / "table.json")
    subject, first = subjects[0], out / "runs" / f"{subjects[0].name}-seed{seeds[0]}"
    base = Model.load(data / subject.model if data and subject.model else first / "base", device=device)
    models = {"base": base, "shifted": Model.load(first / "shifted", device=device)}
    grids = []
    for name, model in models.items():
        images = model.sample(_SHOWN, scoring_seed(seeds[0]))
        save_grid(out / f"{name}.png", images, 8)
        weight = 0.0 if model.guidance is None else model.guidance.weight
        grids.append(GridPanel(name, f"weight {weight:g}", images, method=name))
    _report(table, grids, command).write(out / "report.html")
    return table


def _pair(
    subject: ShiftSubject, folder: Path, seed: int, data: Path | None, device: str | None
) -> list[dict[str, Any]]:
    """Base and shifted model of one seed, scored on fresh noise, with the groups in the picture."""
    base, done = shifted(subject, folder, seed, data, device)
    classifier = subject.judge(data, device).classifier
    assert classifier is not None
    rows = []
    for name, model, weight in (("base", base, 0.0), ("shifted", done.model, done.weight)):
        images = model.sample(_SHOWN, scoring_seed(seed))
        shares = dict(
            zip(classifier.class_names, composition(classify(classifier, images), len(classifier.class_names)))
        )
        shown = {group.name: round(_SHOWN * sum(shares[one] for one in group.classes)) for group in done.groups}
        for row in done.table.rows:
            if row["noise"] == "fresh" and row["weight"] == weight:
                of_seed = {**row, "seed": seed, "shown": shown.get(row["group"], _SHOWN)}
                rows.append({"method": name, **of_seed})
    return rows


def _report(table: Table, grids: Sequence[GridPanel], command: str) -> Report:
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
        grids=grids,
        findings=findings,
        arms={
            "base": "The model as it was trained.",
            "shifted": "Extrapolated away from a copy fine-tuned on own samples in complementary composition.",
        },
        command=command,
        notes=("The pictures are the first of the set, not chosen.",),
    )
