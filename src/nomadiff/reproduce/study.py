"""A study: a grid of comparisons that makes one table of a paper, the setting of each in every row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError
from nomadiff.files import write_text
from nomadiff.job_folder import Job, JobFolder
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.dry_run import core_hours, gpu_hours
from nomadiff.networks.flops import flops_of
from nomadiff.reports.page import Figure, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.data_files import NeededFile, file_lines, require_files
from nomadiff.reproduce.published import published
from nomadiff.reproduce.recipe import Recipe, Request, Result, recipe_named
from nomadiff.reproduce.study_text import study_text
from nomadiff.tables import Table, read_table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import versions
from nomadiff.workflows.arms import Arm, job_of
from nomadiff.workflows.compare import Comparison, check_parts, comparison_jobs
from nomadiff.workflows.metric_infos import metric_infos
from nomadiff.workflows.workers import work_on

__all__ = ["Cell", "Study", "jobs_from", "plan_study", "run_study", "study_recipe"]


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
class Study:
    """A table or figure of the paper.

    Attributes:
        title: title of the report.
        cells: the grid.
        files: what the cells read from ``--data``.
        generators: models that draw synthetic sources, made before the cells and shared by them all; an arm's ``out``
            is a folder name below ``{sources}``, which then holds its ``samples.zip``.
        line: a numeric field over which the distance is plotted; none if empty.
        notes: what the figures do and do not show.
    """

    title: str
    cells: Sequence[Cell]
    files: Sequence[NeededFile] = ()
    generators: Sequence[Arm] = ()
    line: str = ""
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The fields that name a setting."""
        return list(dict.fromkeys(key for cell in self.cells for key in cell.fields))


def study_recipe(name: str, description: str, study: Callable[[Request], Study]) -> Recipe:
    """The recipe of a study; ``study`` makes it for a request."""
    _STUDIES[name] = study
    return Recipe(
        name=name,
        description=description,
        scales=("smoke", "small", "medium", "paper"),
        options=("data", "seeds", "budget", "processes", "gpus_per_job", "device"),
        plan=lambda request: plan_study(_study_of(name, request), request.data),
        run=lambda request: run_study(name, _study_of(name, request), request),
    )


_STUDIES: dict[str, Callable[[Request], Study]] = {}  # by recipe, for workers


def _study_of(name: str, request: Request) -> Study:
    """The study of a recipe as it is asked for: a budget replaces that of all its arms, not of its generators."""
    study = _STUDIES[name](request)
    if request.budget is None:
        return study
    cells = []
    for cell in study.cells:
        changes = {**cell.comparison.changes, "budget": request.budget}
        cells.append(replace(cell, comparison=replace(cell.comparison, changes=changes)))
    return replace(study, cells=cells)


def plan_study(study: Study, data: Path | None) -> str:
    """Needs and costs of a study, one fact a line: files found or missing, models, compute."""
    lines = file_lines(study.files, data)
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


def run_study(name: str, study: Study, request: Request) -> Result:
    """Run every cell and write ``table`` and ``composition`` (JSON and CSV), ``summary.md`` and ``report.html``.

    A device that is asked for replaces the study's own. All cells are one folder of jobs: other processes may help.

    Returns:
        One row an arm and seed, with the fields of its cell.

    Raises:
        DataError: a file is missing; found before anything is trained.
        NomadiffError, Interrupted: as :func:`~nomadiff.workflows.compare.compare`.
    """
    require_files(name, study.files, request.data)
    placed = _placed(study, request)
    for cell, first in zip(placed.cells, study.cells):
        comparison = cell.comparison
        if _needs_generators(first):  # what a generator is to draw cannot be looked at yet, all else can
            comparison = replace(comparison, mix=replace(comparison.mix_spec, synthetic=()), methods=("dm",))
        check_parts(comparison)
    jobs = _jobs(name, study, request)
    folder = JobFolder(request.out)
    asked = ("scale", "command", "seeds", "budget", "device")
    values = {name: getattr(request, name) for name in asked}
    data = None if request.data is None else str(request.data)
    told = {"study": "reproduce", "name": name, "request": {**values, "data": data}}
    folder.write_plan(jobs, {**told, "gpus_per_job": request.gpus_per_job or 1})
    folder.forget_failures()
    workers = {cell.comparison.workers for cell in study.cells}
    work_on(
        request.out,
        jobs[:-1],
        device=request.device,
        processes=request.processes or (workers.pop() if len(workers) == 1 else None),
        gpus_per_job=request.gpus_per_job or 1,
    )
    result = _summarised(name, placed, request)
    folder.mark_done(jobs[-1])
    return result


def jobs_from(settings: Mapping[str, Any], out: Path) -> list[Job]:
    """The jobs of a study in a folder, from the settings that its plan was made from.

    Raises:
        DataError: they are no such settings.
    """
    try:
        name, given = str(settings["name"]), dict(settings["request"])
        given["data"] = None if given["data"] is None else Path(given["data"])
        given["seeds"] = None if given["seeds"] is None else tuple(map(int, given["seeds"]))
        request = Request(out=out, **given)
        recipe_named(name)  # its module knows the study
        return _jobs(name, _study_of(name, request), request)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise DataError(f"{out}: not the settings of a study ({error})") from error


def _placed(study: Study, request: Request) -> Study:
    """A study with its folders, device and command filled in."""
    out, device = request.out, request.device
    sources = out / "sources"
    cells = []
    for cell in study.cells:
        mix = cell.comparison.mix_spec
        named = tuple(str(path).replace("{sources}", str(sources)) for path in mix.synthetic)
        comparison = replace(
            cell.comparison,
            mix=replace(mix, synthetic=named),
            out=out / "cells" / _name(cell),
            device=device or cell.comparison.device,
            command=request.command,
            gpus_per_job=1 if request.gpus_per_job is None else request.gpus_per_job,
        )
        cells.append(replace(cell, comparison=comparison))
    generators = [replace(arm, out=sources / arm.out, device=device or arm.device) for arm in study.generators]
    return replace(study, cells=cells, generators=generators)


def _jobs(name: str, study: Study, request: Request) -> list[Job]:
    """The generators, then every cell's arms and report, and last the study's own tables and report."""
    placed, out = _placed(study, request), request.out
    jobs = [job_of(arm, out, f"source-{arm.out.name}") for arm in placed.generators]
    generators = tuple(job.name for job in jobs)
    reports = []
    for cell, first in zip(placed.cells, study.cells):
        after = generators if _needs_generators(first) else ()
        jobs += comparison_jobs(cell.comparison, study=out, prefix=f"{_name(cell)}-", after=after)
        reports.append(jobs[-1])
    about = hashlib.sha256(json.dumps([job.about for job in reports]).encode()).hexdigest()
    names, products = tuple(job.name for job in reports), (out / "table.json", out / "report.html")
    return [*jobs, Job("report", partial(_finish, name, placed, request), names, products, about)]


def _name(cell: Cell) -> str:
    return "-".join(str(value) for value in cell.fields.values())


def _needs_generators(cell: Cell) -> bool:
    return any("{sources}" in str(path) for path in cell.comparison.mix_spec.synthetic)


def _finish(name: str, study: Study, request: Request, device: str | None) -> None:
    _summarised(name, study, request)


def _summarised(name: str, study: Study, request: Request) -> Result:
    """The tables and the report of a study whose cells are done."""
    out, command = request.out, request.command
    table = Table(meta={"recipe": name, "command": command, "versions": versions(), "notes": list(study.notes)})
    compositions = Table(meta=table.meta)
    for cell in study.cells:
        folder = cell.comparison.out
        found = read_table(folder / "metrics.json")
        table.rows += [{**cell.fields, **row} for row in found.rows]
        table.meta["evaluation"] = found.meta["evaluation"]
        if (folder / "composition.json").exists():
            compositions.rows += [{**cell.fields, **row} for row in read_table(folder / "composition.json").rows]
    table.write(out / "table.json")
    if compositions.rows:
        compositions.write(out / "composition.json")
    text = study_text(study.title, study.keys, table, study.notes)
    if quoted := published(name):
        text = f"{text}\n{quoted.markdown()}"
        quoted.table().write(out / "quoted.json")
    write_text(out / "summary.md", text)
    _report(name, study, table, command).write(out / "report.html")
    return Result(table, text)


def _report(name: str, study: Study, table: Table, command: str) -> Report:
    distance = distance_in(table.fields)
    figures = []
    if study.line:
        rows = [{**row, "arm": f"{row['method']} {row['source']}".strip()} for row in table.rows]
        svg = metric_lines(rows, study.line, distance, by="arm", label=distance, x_label=study.line)
        figures.append(Figure(f"{distance} against {study.line}", svg, "Mean over seeds."))
    return Report(
        title=study.title,
        subtitle=f"Recipe {name}",
        table=table,
        metrics=metric_infos(distance, {}),
        by=(*study.keys, "method"),
        figures=figures,
        tables=[quoted.page_table()] if (quoted := published(name)) else [],
        command=command,
        versions=versions(),
        notes=study.notes,
    )
