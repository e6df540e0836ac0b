"""Tables as aligned lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nomadiff.reports.numbers import difference_text

__all__ = ["aligned", "comparison_lines", "score_lines"]


def score_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of ``metric``, ``value``, ``low``, ``high`` and ``floor``, and maybe ``group``, one a line, aligned."""
    cells = [["", "", "interval", "fresh real data"]]
    for row in rows:
        name = " ".join(filter(None, (row.get("group"), row["metric"])))
        interval = "" if row.get("low") is None else f"[{_number(row['low'])}, {_number(row['high'])}]"
        cells.append([name, _number(row["value"]), interval, _number(row.get("floor"))])
    return aligned(cells)


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as of :func:`score_lines` of several sets: a line a metric, a column a set; differences likewise."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    of_metric: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        of_metric.setdefault(" ".join(filter(None, (row.get("group"), row["metric"]))), {})[row["set"]] = row
    cells = [["", *sets, "fresh real data"]]
    for name, found in of_metric.items():
        values = [_number(found[each]["value"]) if each in found else "-" for each in sets]
        floors = {row.get("floor") for row in found.values()}  # sets of other sizes have others
        cells.append([name, *values, _number(floors.pop() if len(floors) == 1 else None)])
    differences = [[f"less {sets[0]}", *sets[1:]]]
    for name, found in of_metric.items():
        if any(row.get("difference") is not None for row in found.values()):
            differences.append([name, *(difference_text(found.get(each, {})) for each in sets[1:])])
    return f"{aligned(cells)}\n\n{aligned(differences)}\n* the interval leaves out 0"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of as many texts each, in columns."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
