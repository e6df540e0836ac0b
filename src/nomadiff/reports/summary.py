"""The table of means: arms in rows, one block for each synthetic source, the best of each column marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nomadiff.errors import UsageError
from nomadiff.reports.numbers import as_number, cell_text, column_decimals, fixed
from nomadiff.tables import Table, summarise

__all__ = ["ArmRow", "Block", "Cell", "MetricInfo", "blocks_by_source", "floor_cells", "sources_of"]


@dataclass(frozen=True)
class MetricInfo:
    """Description of a metric for readers.

    Attributes:
        field: its field in the table, such as ``fd_digits``.
        label: its name in the report.
        better: ``"lower"``, ``"higher"``, or ``"neither"``: then nothing is marked as best.
        floor: what fresh real data scores: the best a model of the real distribution can hope for. None if unknown.
        description: one sentence on what it measures.
    """

    field: str
    label: str
    better: Literal["lower", "higher", "neither"] = "lower"
    floor: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher", "neither"):
            raise UsageError(f'{self.field}: better must be "lower", "higher" or "neither", got {self.better!r}')


@dataclass(frozen=True)
class Cell:
    """One mean as text, its standard deviation as text (empty for a single seed), and whether it is the best."""

    mean: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class ArmRow:
    """One arm: the values that name it, its number of seeds, images seen (empty if unknown), and a cell a metric."""

    names: list[str]
    method: str
    count: int
    images_seen: str
    cells: list[Cell]


@dataclass(frozen=True)
class Block:
    """All arms that are compared with one another: those of one source, and those that use no synthetic source."""

    source: str
    rows: list[ArmRow]


def sources_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the synthetic sources in order of first appearance; ``[""]`` when no row names one."""
    names = dict.fromkeys(str(row["source"]) for row in rows if row.get("source"))
    return list(names) or [""]


def blocks_by_source(table: Table, metrics: Sequence[MetricInfo], by: Sequence[str]) -> list[Block]:
    """Mean and spread over seeds of every arm, in one block for each synthetic source.

    An arm without a source (DM sees no synthetic image) is a baseline of every source: it stands in each block. The
    best mean of a column is marked when the block has at least two different ones; an arm with an ``untrained`` run is
    no candidate.

    Args:
        table: one row a run.
        metrics: the columns.
        by: fields that name an arm within a block.
    """
    fields = [metric.field for metric in metrics]
    rows = [{**row, **{field: as_number(row.get(field)) for field in [*fields, "images_seen"]}} for row in table.rows]
    if not rows:
        return []
    sources = sources_of(rows)
    summaries = {}
    for source in sources:
        compared = [row for row in rows if str(row.get("source") or "") in ("", source)]
        summaries[source] = summarise(compared, by, [*fields, "images_seen"])
    decimals = {metric.field: _decimals(table, metric) for metric in metrics}
    blocks = []
    for source, arms in summaries.items():
        raw = {
            tuple(row.get(name) for name in by)
            for row in rows
            if row.get("untrained") and str(row.get("source") or "") in ("", source)
        }
        models = [arm for arm in arms if tuple(arm[name] for name in by) not in raw]
        best = {metric.field: _best(metric, models) for metric in metrics}
        lines = []
        for arm in arms:
            cells = []
            for field in fields:
                spread = arm[f"{field}_sd"]
                cells.append(
                    Cell(
                        mean=fixed(arm[field], decimals[field]),
                        spread="" if spread is None else _spread_text(spread, decimals[field]),
                        best=arm in models and arm[field] is not None and arm[field] == best[field],
                    )
                )
            seen = arm["images_seen"]
            lines.append(
                ArmRow(
                    names=[cell_text(arm[name]) for name in by],
                    method=str(arm.get("method") or ""),
                    count=arm["count"],
                    images_seen="" if seen is None else fixed(seen, 0),
                    cells=cells,
                )
            )
        blocks.append(Block(source, lines))
    return blocks


def floor_cells(table: Table, metrics: Sequence[MetricInfo]) -> list[str]:
    """What fresh real data scores in each column, in the decimals of the column; empty if no floor is known."""
    if all(metric.floor is None for metric in metrics):
        return []
    return [fixed(metric.floor, _decimals(table, metric)) for metric in metrics]


def _spread_text(spread: float, decimals: int) -> str:
    """A spread too small for the column's decimals must not read as zero."""
    text = fixed(spread, decimals)
    return text if spread == 0 or float(text.replace(",", "")) > 0 else f"<{fixed(10.0**-decimals, decimals)}"


def _decimals(table: Table, metric: MetricInfo) -> int:
    return column_decimals([metric.floor, *(as_number(row.get(metric.field)) for row in table.rows)])


def _best(metric: MetricInfo, arms: Sequence[Mapping[str, Any]]) -> float | None:
    means = {arm[metric.field] for arm in arms if arm[metric.field] is not None}
    if len(means) < 2 or metric.better == "neither":  # one arm, or all the same: nothing is best
        return None
    return min(means) if metric.better == "lower" else max(means)
