"""A study: a grid of comparisons that makes one table of a paper, the setting of each in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.files import write_text
from nomadiff.job_folder import JobFolder
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.dry_run import core_hours, gpu_hours
from nomadiff.networks.flops import flops_of
from nomadiff.reports.page import Figure, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.study_text import study_text
from nomadiff.tables import Table, read_table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import versions
from nomadiff.workflows.arms import Arm, job_of
from nomadiff.workflows.compare import Comparison, compare
from nomadiff.workflows.judging import metric_infos
from nomadiff.workflows.workers import work_on

__all__ = ["SCALES", "Cell", "NeededFile", "Study", "check_scale", "plan_study", "run_study"]

SCALES = ("smoke", "small", "medium", "paper")


@dataclass(frozen=True)
class Cell:
    """One setting of a study.

    Attributes:
        fields: its values in the grid, such as ``{"n": 1000}``; written into every row.
        comparison: what is trained and scored; its ``out`` is a folder name below the study's. ``{sources}`` in a
            synthetic path is the folder of what the study's own generators drew.
    """

    fields: Mapping[str, str | int]
    comparison: Comparison


@dataclass(frozen=True)
class NeededFile:
    """A file that a study reads, and where it comes from."""

    name: str
    origin: str


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper.

    Attributes:
        name: the recipe's name.
        title: title of the report.
        cells: the grid.
        files: what the cells read from ``--data``.
        generators: models that draw synthetic sources, made before the cells and shared by them all; an arm's ``out``
            is a folder name below ``{sources}``, which then holds its ``samples.zip``.
        line: ``(field, metric)`` to plot as a line over a numeric field, or None.
        notes: what the figures do and do not show.
    """

    name: str
    title: str
    cells: Sequence[Cell]
    files: Sequence[NeededFile] = ()
    generators: Sequence[Arm] = ()
    line: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The fields that name a setting."""
        return list(dict.fromkeys(key for cell in self.cells for key in cell.fields))


def check_scale(scale: str) -> None:
    """Refuse a scale that does not exist.

    Raises:
        UsageError: ``scale`` is not one of :data:`SCALES`.
    """
    if scale not in SCALES:
        raise UsageError(f"unknown scale '{scale}': choose one of {', '.join(SCALES)}")


def plan_study(study: Study, data: Path | None) -> str:
    """Needs and costs of a study, one fact a line: files found or missing, models, compute."""
    lines = [f"{study.name}: {study.title}"]
    for file in study.files:
        found = data is not None and (data / file.name).exists()
        lines.append(f"{'found  ' if found else 'missing'}  {file.name}: {file.origin}")
    arms = [arm for cell in study.cells for arm in cell.comparison.arms()]
    operations: dict[str, float] = {}
    for arm in (*study.generators, *arms):
        preset, training = preset_named(arm.preset), arm.algorithm().training
        forward = flops_of(preset.network, 0)
        spent = forward * (3 * training.budget + preset.sampler.nfe * arm.count)
        operations[training.precision] = operations.get(training.precision, 0.0) + spent
    own = f" and {len(study.generators)} generators" if study.generators else ""
    lines.append(f"models:   {len(arms)} in {len(study.cells)} settings{own}")
    total = sum(operations.values())
    lines.append(f"compute:  {total / 1e18:,.3g} EFLOP")
    lines.append(f"GPU hours:  {gpu_hours(operations)}")
    lines.append(f"core hours: {core_hours(total)}")
    return "\n".join(lines)


def run_study(
    study: Study, out: Path, *, data: Path | None = None, device: str | None = None, command: str = ""
) -> dict[str, Any]:
    """Run every cell and write ``table`` and ``composition`` (JSON and CSV), ``summary.md`` and ``report.html``.

    Interrupted, the same call continues. ``device`` replaces the study's own.

    Returns:
        ``text`` (what ``summary.md`` says) and ``table`` (a :class:`~nomadiff.tables.Table`, one row an arm and seed).

    Raises:
        DataError: a file is missing; found before anything is trained.
    """
    missing = [file.name for file in study.files if data is None or not (data / file.name).exists()]
    if missing:
        where = data if data is not None else "--data FOLDER"
        raise DataError(f"{study.name} needs {', '.join(missing)} in {where}; --dry-run says where they come from")
    sources = out / "sources"
    generators = [replace(arm, out=sources / arm.out, device=device or arm.device) for arm in study.generators]
    jobs = [job_of(arm, out) for arm in generators]
    JobFolder(out).write_plan(jobs)
    work_on(out, jobs, device=device)
    table = Table(meta={"recipe": study.name, "command": command, "versions": versions(), "notes": list(study.notes)})
    compositions = Table(meta=table.meta)
    for cell in study.cells:
        folder = out / "cells" / "-".join(str(value) for value in cell.fields.values())
        cell_device = device or cell.comparison.device
        named = tuple(str(path).replace("{sources}", str(sources)) for path in cell.comparison.mix_spec.synthetic)
        mix = replace(cell.comparison.mix_spec, synthetic=named)
        result = compare(replace(cell.comparison, mix=mix, out=folder, device=cell_device, command=command))
        table.rows += [{**cell.fields, **row} for row in result.rows]
        table.meta["evaluation"] = result.meta["evaluation"]
        if (folder / "composition.json").exists():
            compositions.rows += [{**cell.fields, **row} for row in read_table(folder / "composition.json").rows]
    table.write(out / "table.json")
    if compositions.rows:
        compositions.write(out / "composition.json")
    text = study_text(study.title, study.keys, table, study.notes)
    write_text(out / "summary.md", text)
    _report(study, table, command).write(out / "report.html")
    return {"text": text, "table": table}


def _report(study: Study, table: Table, command: str) -> Report:
    distance = distance_in(table.fields)
    figures = []
    if study.line is not None:
        field, metric = study.line
        metric = distance if metric == "distance" else metric
        rows = [{**row, "arm": _arm(row)} for row in table.rows]
        svg = metric_lines(rows, field, metric, by="arm", label=metric, x_label=field)
        figures.append(Figure(f"{metric} against {field}", svg, "Mean over seeds."))
    return Report(
        title=study.title,
        subtitle=f"Recipe {study.name}",
        table=table,
        metrics=metric_infos(distance, {}),
        by=(*study.keys, "method"),
        figures=figures,
        command=command,
        versions=versions(),
        notes=study.notes,
    )


def _arm(row: Mapping[str, Any]) -> str:
    return f"{row['method']} {row['source']}".strip()
