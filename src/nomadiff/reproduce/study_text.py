"""The results of a study in words: in how many settings one method is nearer to the real images than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nomadiff.metrics.distance_names import FDR, distance_in
from nomadiff.reports.markdown import markdown_table
from nomadiff.reports.numbers import column_decimals, fixed
from nomadiff.tables import Table, summarise

__all__ = ["study_text"]

Row = Mapping[str, Any]

_PAIRS = (("casd", "sda"), ("casd", "dm"), ("sda", "dm"))
_METRICS = (
    *(FDR, "precision", "recall", "coverage", "replication"),
    *("ssim_pairs", "ssim_nearest", "composition_tv", "style"),
)


def study_text(title: str, keys: Sequence[str], table: Table, notes: Sequence[str] = ()) -> str:
    """The comparison of methods in Markdown: sentences made from the rows, then a table of means.

    Methods are compared seed by seed: arms of one seed have the same real images and the same noise. Of a method that
    was trained in one setting only (DM, which sees no synthetic image) that one is used for all.

    Args:
        title: heading.
        keys: fields that name a setting; those with one value in all rows are left out.
        table: one row an arm and seed, with ``method``, ``source``, ``seed`` and the metrics.
        notes: sentences to end with.
    """
    distance = distance_in(table.fields)
    keys = [key for key in keys if len({row[key] for row in table.rows}) > 1]  # the others are the same in every row
    seeds = len({row["seed"] for row in table.rows})
    parts = [f"# {title}\n"]
    if seeds < 2:
        parts.append("**One seed shows that the recipe runs, and hardly more.**\n")
    for one, other in _PAIRS:
        if sentence := _compared(table.rows, keys, distance, one, other):
            parts.append(sentence + "\n")
    parts.append(f"Mean ± standard deviation over {seeds} seeds.\n" if seeds > 1 else "The seed's own figures.\n")
    parts.append(_table(table, keys, distance) + "\n")
    parts += [f"{note}\n" for note in notes]
    return "\n".join(parts)


def _compared(rows: Sequence[Row], keys: Sequence[str], distance: str, one: str, other: str) -> str:
    """One method against another over all settings that have both; empty if there is none."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["method"] == one and (rival := _rival(rows, keys, row, other)) is not None:
            setting = ", ".join([*(f"{key} {row[key]}" for key in keys), row["source"]])
            pairs.setdefault(setting, []).append((row[distance], rival[distance]))
    told: dict[bool, list[str]] = {True: [], False: []}
    for setting, both in pairs.items():
        mine, theirs = (sum(values) / len(both) for values in zip(*both))
        nearer = mine < theirs
        agreeing = sum((a < b) == nearer for a, b in both)
        decimals = column_decimals([mine, theirs])
        seeds = f", in {agreeing} of {len(both)} seeds" if len(both) > 1 else ""
        told[nearer].append(f"{setting} ({fixed(mine, decimals)} against {fixed(theirs, decimals)}{seeds})")
    if not pairs:
        return ""
    text = (
        f"**{one.upper()} against {other.upper()}**, {distance}: nearer in {len(told[True])} of {len(pairs)} settings"
    )
    text += f": {'; '.join(told[True])}." if told[True] else "."
    return text + (f" Farther in {'; '.join(told[False])}." if told[False] else "")


def _rival(rows: Sequence[Row], keys: Sequence[str], row: Row, method: str) -> Row | None:
    """The other method's row for the same seed and source: of the same setting, or else of the only one it has."""
    found = [
        each
        for each in rows
        if each["method"] == method and each["seed"] == row["seed"] and each["source"] in ("", row["source"])
    ]
    here = [each for each in found if all(each[key] == row[key] for key in keys)]
    candidates = here or found
    return candidates[0] if len(candidates) == 1 else None


def _table(table: Table, keys: Sequence[str], distance: str) -> str:
    metrics = [distance, *(name for name in _METRICS if name in table.fields)]
    by = [*keys, "source", "method"]
    lines = []
    for mean in summarise(table.rows, by, metrics):
        cells = []
        for name in metrics:
            if mean[name] is None:  # such as the style of a source that cannot be told from real images
                cells.append("-")
                continue
            spread = mean[f"{name}_sd"]
            decimals = min(3, column_decimals([mean[name]]))  # a cell's own: distances of one column are far apart
            text = fixed(mean[name], decimals)
            cells.append(text if spread is None else f"{text} ± {fixed(spread, decimals)}")
        lines.append([*(str(mean[name] or "-") if name == "source" else str(mean[name]) for name in by), *cells])
    return markdown_table([*by, *metrics], lines)
