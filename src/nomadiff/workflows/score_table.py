"""One table of runs that were scored before: what ``nomadiff table`` does. Nothing is computed but means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.files import check_output, printable
from nomadiff.metrics.distance_names import PREFIXES, distance_in, kernel_name
from nomadiff.reports.numbers import as_number
from nomadiff.tables import Table, read_table, summarise
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["TABLES", "check_page_beside", "conditions_of", "differences", "score_table"]

TABLES = ("metrics.json", "table.json", "improve.json", "shift.json")
"""Where the scores of a folder are: of compare, loop and evaluate; of a recipe; of improve; of shift."""

_NAMES = ("base", "dataset", "setting", "case", "n", "m", "method", "source", "set", "space", "weight", "generation")
_CONDITIONS = ("detector", "detector_sha256", "reference_sha256", "count", "k", "convention")


def score_table(*runs: str | Path) -> Table:
    """The scores of runs side by side, as they are written on disk.

    Args:
        runs: folders of ``compare``, ``loop``, ``improve``, ``shift`` or ``reproduce``, or tables: a ``metrics.json``
            of ``evaluate``, say. Each is ``[name=]path``.

    Returns:
        One row an arm of a run: ``run``, ``arm`` (its method, source, weight or generation; empty where there is one),
        ``runs`` (how many its figures are the mean of), and for each metric its mean and ``<metric>_sd``. Of
        ``improve`` the scores on noise that nothing was chosen by. The meta has ``notes``: why figures of two runs
        cannot be compared, a sentence each.

    Raises:
        UsageError: no run, one without scores, or two of one name.
        DataError: a file is damaged, or no table of scores.
    """
    if not runs:
        raise UsageError("table needs at least one run: a folder of compare, improve or loop, or a metrics.json")
    found: dict[str, Table] = {}
    for spec in runs:
        name, path = _named(spec)
        if name in found:
            raise UsageError(f"two runs are called {name!r}: name them, as in first={path}")
        found[name] = _read(path)
    wide = {name: _wide(table) for name, table in found.items()}
    metrics = _metrics([row for rows in wide.values() for row in rows])
    if not metrics:
        raise DataError(f"{', '.join(found)}: no scores in {'it' if len(found) == 1 else 'them'}")
    rows = []
    for name, of_run in wide.items():
        by = [field for field in _NAMES if len({row.get(field) for row in of_run}) > 1]
        for arm in summarise([{**row, **_numbers(row, metrics)} for row in of_run], by, metrics):
            told = ", ".join(_told(field, arm[field]) for field in by if arm[field] not in (None, ""))
            row: dict[str, Any] = {"run": name, "arm": told, "runs": arm["count"]}
            for metric in metrics:
                row[metric] = arm[metric]
                if arm[f"{metric}_sd"] is not None:
                    row[f"{metric}_sd"] = arm[f"{metric}_sd"]
            rows.append(row)
    conditions = {name: conditions_of(table) for name, table in found.items()}
    notes = differences(conditions)
    if unknown := [name for name, known in conditions.items() if "detector" not in known]:
        notes.append(f"{', '.join(unknown)}: not said which detector and reference the scores are of")
    return Table(rows, {"metrics": metrics, "conditions": conditions, "notes": notes})


def _named(spec: str | Path) -> tuple[str, Path]:
    from nomadiff.data.choice import parse_named

    name, text = parse_named(str(spec))
    path = Path(text)
    if name is None:
        name = (
            path.resolve().name
            if path.is_dir() or path.parent == Path() or path.name not in TABLES
            else path.resolve().parent.name
        )
    return name.removesuffix(".json"), path


def _read(path: Path) -> Table:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        there = [path / name for name in TABLES if (path / name).is_file()]
        if not there:
            raise UsageError(f"{path}: holds no scores ({', '.join(TABLES)}): draw samples and nomadiff evaluate them")
        path = there[0]
    table = read_table(path)
    if not isinstance(table.meta, dict) or not all(isinstance(row, dict) for row in table.rows):
        raise DataError(f"{path}: not a table of scores")
    return table


def _wide(table: Table) -> list[Mapping[str, Any]]:
    """One row a run or set, its metrics as fields."""
    rows = [row for row in table.rows if not row.get("group") or row.get("group") == "all"]
    if any(row.get("noise") == "fresh" for row in rows):  # the others are what a weight was chosen by
        rows = [row for row in rows if row.get("noise") == "fresh"]
    if not all("metric" in row and "value" in row for row in rows):
        return list(rows)
    sets: dict[Any, dict[str, Any]] = {}
    for row in rows:
        sets.setdefault(row.get("set"), {"set": row.get("set")})[str(row["metric"])] = row["value"]
    return list(sets.values())


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that some row has, in the order of a report; distances of several detectors one after the other."""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    distances = [name for name in fields if name.startswith(PREFIXES) and not name.endswith(("_low", "_high", "_sd"))]
    others = [info.field for info in metric_infos(distance_in(fields), {})][1:]
    known = [*distances, *others, *map(kernel_name, distances), "nfe", "mparams"]
    return [name for name in dict.fromkeys(known) if any(as_number(row.get(name)) is not None for row in rows)]


def _numbers(row: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, float | None]:
    return {name: as_number(row.get(name)) for name in metrics}


def _told(field: str, value: Any) -> str:
    return printable(str(value)) if field in ("method", "source", "set", "base") else f"{field} {printable(str(value))}"


def conditions_of(table: Table) -> dict[str, Any]:
    """What the figures of a run depend on beside the images."""
    meta = table.meta.get("evaluation")
    meta = meta if isinstance(meta, dict) else table.meta
    return {name: meta[name] for name in _CONDITIONS if name in meta}


def check_page_beside(table: Path) -> None:
    """Find out before any work whether the page of a table, ``<name>.html``, can be written beside it.

    Raises:
        UsageError, NomadiffError: it cannot, or the table was given the page's name.
    """
    page = table.with_suffix(".html")
    if page == table:
        raise UsageError(f"{table}: give the name of the JSON file, such as {page.stem}.json; the page goes beside it")
    check_output(page, "file")


def differences(conditions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why runs cannot be compared, by what :func:`conditions_of` gave for each: a sentence each."""
    notes = []
    for field in _CONDITIONS:
        values = {name: _short(found[field]) for name, found in conditions.items() if field in found}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in values.items())
            notes.append(f"not comparable, {field.replace('_sha256', '')} differs ({told})")
    return notes


def _short(value: Any) -> str:
    text = printable(str(value))
    return text[:12] if len(text) == 64 else text[:60]
