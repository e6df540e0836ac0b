"""Tidy tables: one row an observation, written as JSON ``{"meta": {...}, "rows": [{...}]}`` with a CSV beside it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.files import check_output, read_json, write_json, write_text
from nomadiff.pictures import html_table

__all__ = ["Table", "check_table", "read_table", "summarise"]


@dataclass(repr=False)
class Table:
    """Rows of plain values (str, int, float, bool, None) and what makes them comparable.

    Attributes:
        rows: one mapping an observation; rows may lack fields.
        meta: command, versions, counts, hashes: whatever the figures depend on.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> list[str]:
        """Names of all fields, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __repr__(self) -> str:
        return f"Table({len(self.rows)} rows of {', '.join(self.fields) or 'nothing'})"

    def _repr_html_(self) -> str:
        return html_table(self.rows)

    def write(self, path: str | Path) -> None:
        """Write ``path`` (JSON) and the same rows as CSV beside it, each atomically.

        A float that is not finite is written as null: JSON has no NaN.
        """
        path = Path(path)
        rows = self._plain_rows()
        write_json(path, {"meta": self.meta, "rows": rows})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=self.fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path.with_suffix(".csv"), text.getvalue())

    def to_json(self) -> str:
        """What :meth:`write` writes as JSON."""
        content = {"meta": self.meta, "rows": self._plain_rows()}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def _plain_rows(self) -> list[dict[str, Any]]:
        return [{name: _plain(value) for name, value in row.items()} for row in self.rows]


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as a Python one; NaN and infinities as None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_table(path: Path) -> None:
    """Find out before any work whether :meth:`Table.write` can write ``path`` and the CSV beside it.

    Raises:
        UsageError: both would be one file, or ``path`` cannot name one.
        NomadiffError: the disk is full, or the path cannot be written.
    """
    if path.suffix.lower() == ".csv":
        raise UsageError(f"{path}: give the name of the JSON file, such as {path.stem}.json; the CSV goes beside it")
    for name in (path, path.parent / f"{path.stem}.csv"):
        check_output(name, "file")


def read_table(path: str | Path) -> Table:
    """Read a table written by :meth:`Table.write`.

    Raises:
        DataError: the file is absent or is not such a table.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise DataError(f'{path}: not a nomadiff table (expected {{"meta": ..., "rows": [...]}})')
    return Table(rows=content["rows"], meta=content.get("meta", {}))


def summarise(rows: Iterable[Mapping[str, Any]], by: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and spread of ``metrics`` over the rows that agree in the fields ``by``, in order of first appearance.

    Returns:
        One row a group: the fields ``by``, ``count``, and for each metric ``<metric>`` (mean) and ``<metric>_sd``
        (sample standard deviation; None for a single row). Rows where a metric is None are left out of that metric.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    summary = []
    for key, members in groups.items():
        line: dict[str, Any] = {**dict(zip(by, key)), "count": len(members)}
        for metric in metrics:
            values = [float(row[metric]) for row in members if row.get(metric) is not None]
            mean = sum(values) / len(values) if values else None
            line[metric] = mean
            line[f"{metric}_sd"] = (
                math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
                if mean is not None and len(values) > 1
                else None
            )
        summary.append(line)
    return summary
