"""``verdict``: what finished comparisons say together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.metrics.verdict import Verdict, judge
from nomadiff.tables import Table, read_table
from nomadiff.workflows.score_table import conditions_of, differences

__all__ = ["verdict"]


def verdict(*studies: str | Path | Table, level: float = 0.95) -> Verdict:
    """Whether synthetic data helped: no harm, utility, adaptability, with intervals over seeds, and what to do.

    Args:
        studies: folders of ``compare``, their ``metrics.json``, or the tables it returns.
        level: of the intervals.

    Raises:
        UsageError: no study, none with a real-only arm to compare with, or several that were judged by other
            detectors, references or numbers of samples, or that trained on other real images.
        DataError: a file is absent or no such table.
    """
    if not studies:
        raise UsageError("verdict needs at least one folder of compare, or a metrics.json")
    tables: dict[str, Table] = {}
    for number, study in enumerate(studies, 1):
        if isinstance(study, Table):
            tables[f"table {number}"] = study
        else:
            path = Path(study)
            tables[str(study)] = read_table(path / "metrics.json" if path.is_dir() else path)
    told = differences({name: conditions_of(table) for name, table in tables.items()})
    if why := next(iter(told), "") or _other_training(tables):
        raise UsageError(f"{why}: ask for the verdict on each study by itself")
    return judge([row for table in tables.values() for row in table.rows], level=level)


def _other_training(tables: Mapping[str, Table]) -> str:
    """Why arms of one study cannot be set against the real-only training of another; empty if they can."""
    counts = {name: table.meta.get("evaluation", {}).get("train_count") for name, table in tables.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        told = ", ".join(f"{name}: {count:,}" for name, count in known.items())
        return f"trained on different numbers of real images ({told})"
    seen: dict[tuple[Any, ...], tuple[str, Mapping[str, Any]]] = {}
    for name, table in tables.items():
        for row in table.rows:
            method, seed = row.get("method"), row.get("seed")
            run = (method, row.get("source") or "", seed, row.get("images_seen"))
            before, earlier = seen.setdefault(run, (name, row))
            if before != name and earlier != row:
                return f"{before} and {name} both have {method} of seed {seed}, with other figures"
    return ""
