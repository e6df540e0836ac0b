"""The page of an evaluation, and the list of likely copies as CSV and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nomadiff.metrics.distance_names import distance_in, what_it_misses
from nomadiff.metrics.fdr import too_few
from nomadiff.metrics.memorisation import NearestTraining
from nomadiff.metrics.replication import NEAR
from nomadiff.reports.grids import save_grid
from nomadiff.reports.numbers import cell_text, difference_text
from nomadiff.reports.page import Composition, Finding, GridPanel, Neighbours, PageTable, Report
from nomadiff.tables import Table
from nomadiff.workflows.evaluate import Evaluation
from nomadiff.workflows.evaluation_verdict import verdict_on
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["evaluation_report", "nearest_table", "notes_on", "write_evaluation"]

_SHOWN = 64  # images of a grid
_PAIRS = 24  # likely copies shown beside their training images
_ELSEWHERE = ("nearest", "composition", "class_names", "versions", "command")  # of the meta, shown in other sections
_LISTED = 20  # rows of the list in the page; all are in the CSV


def write_evaluation(evaluation: Evaluation, out: Path, command: str = "") -> list[Path]:
    """Write the table, the report beside it and, with training images, the list of likely copies and their pictures.

    Args:
        evaluation: what was scored.
        out: the table's file (JSON). The others are called like it: ``metrics.csv``, ``metrics.html``,
            ``metrics-nearest.csv`` and, a picture a set, ``metrics-nearest.png``.
        command: printed in the report.

    Returns:
        The files that are for reading: the table, the report, the list, the pictures.
    """
    evaluation.table.write(out)
    written = [out, out.with_suffix(".html")]
    evaluation_report(evaluation, command).write(written[1])
    if evaluation.train is not None and any(each.nearest is not None for each in evaluation.scores.values()):
        listed = out.with_name(f"{out.stem}-nearest.json")
        nearest_table(evaluation).write(listed)
        written.append(listed.with_suffix(".csv"))
        for name, found in _nearest(evaluation).items():
            suffix = f"-{name.replace('/', '-')}" if evaluation.several else ""
            picture = out.with_name(f"{out.stem}-nearest{suffix}.png")
            first = found.order[:_PAIRS]
            pairs = torch.stack(
                [evaluation.samples[name].pixels[first], evaluation.train.pixels[found.index[first]]], 1
            )
            save_grid(picture, pairs.flatten(0, 1), 8)  # a sample, then its training image: four pairs a row
            written.append(picture)
    return written


def nearest_table(evaluation: Evaluation) -> Table:
    """Every sample with its nearest training image, the most suspicious first.

    Returns:
        Rows ``set`` (of several), ``rank``, ``sample``, ``train`` (their numbers), ``sample_file``, ``train_file``
        (where there are files), ``distance``, ``ratio`` and, where it is known, ``replicates``; see
        :mod:`~nomadiff.metrics.memorisation`.
    """
    assert evaluation.train is not None
    rows = []
    for name, found in _nearest(evaluation).items():
        head = {"set": name} if evaluation.several else {}
        files = evaluation.samples[name].names, evaluation.train.names
        for row in found.rows(threshold=evaluation.threshold):
            told: dict[str, Any] = {**head, "rank": row["rank"], "sample": row["sample"], "train": row["train"]}
            for kind, names in zip(("sample", "train"), files):
                if names is not None:
                    told[f"{kind}_file"] = names[row[kind]]
            rows.append(told | row)
    return Table(rows, {**evaluation.table.meta, "threshold": evaluation.threshold})


def evaluation_report(evaluation: Evaluation, command: str = "") -> Report:
    """The page: samples, scores with floors and intervals, differences, likely copies beside their training images."""
    table, several = evaluation.table, evaluation.several
    names = list(evaluation.samples)
    whole = [row for row in table.rows if not row.get("group")]
    of_set = {name: [row for row in whole if row.get("set", name) == name] for name in names}
    wide = [{"set": name, **{row["metric"]: row["value"] for row in of_set[name]}} for name in names]
    floors = {row["metric"]: row["floor"] for row in of_set[names[0]]}
    alike = len({len(source) for source in evaluation.samples.values()}) == 1
    meta = {name: value for name, value in table.meta.items() if name not in _ELSEWHERE}
    distance = distance_in(row["metric"] for row in whole)
    grids = [GridPanel(name, "", source.pixels[:_SHOWN], 8) for name, source in evaluation.samples.items()]
    if evaluation.reference is not None:
        grids.insert(0, GridPanel("real", "held out", evaluation.reference.pixels[:_SHOWN], 8, method="real"))
    tables = [_intervals(whole, several)]
    if several:
        tables.insert(0, _differences(whole, names))
    if any(row.get("group") for row in table.rows):
        tables.append(_groups(table, several))
    neighbours = []
    for name, found in _nearest(evaluation).items():
        neighbours.append(_pairs(evaluation, name, found))
        tables.append(_list(evaluation, name, found))
    return Report(
        title=f"{len(names)} sets of generated images compared" if several else "How good are the generated images?",
        subtitle=_subtitle(evaluation),
        findings=[Finding(sentence) for sentence in verdict_on(evaluation)],
        table=Table(wide, meta),
        metrics=metric_infos(distance, floors if alike else {}),
        by=("set",),
        runs_note="One row a set of samples; intervals are in the tables below.",
        grids=grids,
        neighbours=neighbours,
        compositions=_compositions(evaluation),
        tables=tables,
        notes=notes_on(evaluation),
        command=command,
        versions=table.meta.get("versions", {}),
    )


def notes_on(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures must know: too few images, or not equally many."""
    meta, notes = evaluation.table.meta, []
    counts = {name: len(source) for name, source in evaluation.samples.items()}
    known = {**({} if evaluation.reference is None else {"reference": len(evaluation.reference)}), **counts}
    if told := too_few(known, meta.get("dimension")):
        notes.append(told)
    distance = distance_in(row["metric"] for row in evaluation.table.rows)
    if told := what_it_misses(distance):
        notes.append(f"{distance}: {told}")
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        notes.append(
            f"The sets are not of one size ({told}): the Frechet distance of fewer images is larger. Compare FDr or a "
            "kernel distance, or sets of one size."
        )
    return notes


def _nearest(evaluation: Evaluation) -> dict[str, NearestTraining]:
    return {name: each.nearest for name, each in evaluation.scores.items() if each.nearest is not None}


def _subtitle(evaluation: Evaluation) -> str:
    meta = evaluation.table.meta
    counts = [len(source) for source in evaluation.samples.values()]
    real = "statistics" if meta.get("reference_count") is None else f"{meta['reference_count']:,} held-out real images"
    made = f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
    each = " a set" if evaluation.several else ""
    return f"{made} samples{each}, judged by {real}, detector {meta.get('detector')}."


def _intervals(rows: list[dict[str, Any]], several: bool) -> PageTable:
    head = ["set"] if several else []
    return PageTable(
        "Intervals",
        [*head, "metric", "value", "low", "high", "fresh real data"],
        [
            [*(row[name] for name in head), *(row[name] for name in ("metric", "value", "low", "high", "floor"))]
            for row in rows
        ],
        "How far each figure would move with other samples of the same generator; the reference is held fixed.",
    )


def _differences(rows: list[dict[str, Any]], names: list[str]) -> PageTable:
    """One row a metric, one column a set but the first."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["set"] != names[0]:
            cells.setdefault(row["metric"], {})[row["set"]] = difference_text(row)
    return PageTable(
        f"Difference from {names[0]}",
        ["metric", *names[1:]],
        [[metric, *(of_sets.get(name, "–") for name in names[1:])] for metric, of_sets in cells.items()],
        "How much more each set scores, with the interval of the difference: samples of the same number may be of the "
        "same noise, which then cancels. A star marks an interval that leaves out 0. Of distances it also knows that "
        "other reference images would have given other scores.",
    )


def _groups(table: Table, several: bool) -> PageTable:
    columns = [*(["set"] if several else []), "group", "metric", "value", "low", "high", "floor"]
    rows = [[row.get(name) for name in columns] for row in table.rows if row["group"]]
    return PageTable("By class", columns, rows, "Each group of classes by itself, as the classifier assigns images.")


def _pairs(evaluation: Evaluation, name: str, found: NearestTraining) -> Neighbours:
    assert evaluation.train is not None
    first = found.order[:_PAIRS]
    values = evaluation.scores[name].values
    rate = values.get("replication")
    told = f"{found.memorised:.1%} of the samples are three times nearer to one training image than to any other."
    if rate is not None:
        told += f" {rate:.1%} replicate a training image: nearer than 95 % of held-out real images are."
    title = f"{name}: the most likely copies, by distance ratio" if evaluation.several else "The most likely copies"
    return Neighbours(
        title,
        evaluation.samples[name].pixels[first],
        evaluation.train.pixels[found.index[first]],
        found.distance[first].tolist(),
        told,
    )


def _list(evaluation: Evaluation, name: str, found: NearestTraining) -> PageTable:
    assert evaluation.train is not None
    files = evaluation.samples[name].names, evaluation.train.names
    rows = []
    for row in found.rows(_LISTED):
        sample, train = (
            str(row[kind]) if names is None else names[row[kind]] for kind, names in zip(("sample", "train"), files)
        )
        rows.append([row["rank"], sample, train, row["distance"], cell_text(row["ratio"])])
    return PageTable(
        f"Likely copies in {name}" if evaluation.several else "Likely copies",
        ["rank", "sample", "nearest training image", "distance", "ratio"],
        rows,
        f"The ratio is the distance to the nearest training image over that to the second nearest: below {NEAR:.2f} a "
        "sample counts as memorised (Yoon et al. 2023). All samples are in the CSV.",
    )


def _compositions(evaluation: Evaluation) -> list[Composition]:
    names = evaluation.table.meta.get("class_names")
    shares = {name: each.composition for name, each in evaluation.scores.items() if each.composition is not None}
    if not names or not shares:
        return []
    return [Composition(name, dict(zip(names, found))) for name, found in shares.items()]
