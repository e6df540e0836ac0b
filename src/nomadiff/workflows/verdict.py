"""``verdict``: what finished comparisons say together."""

from __future__ import annotations

from pathlib import Path

from nomadiff.errors import UsageError
from nomadiff.metrics.verdict import Verdict, judge
from nomadiff.tables import Table, read_table

__all__ = ["verdict"]


def verdict(*studies: str | Path | Table, level: float = 0.95) -> Verdict:
    """Whether synthetic data helped: no harm, utility, adaptability, with intervals over seeds, and what to do.

    Args:
        studies: folders of ``compare``, their ``metrics.json``, or the tables it returns.
        level: of the intervals.

    Raises:
        UsageError: no study, or none with a real-only arm to compare with.
        DataError: a file is absent or no such table.
    """
    if not studies:
        raise UsageError("verdict needs at least one folder of compare, or a metrics.json")
    tables = []
    for study in studies:
        if not isinstance(study, Table):
            path = Path(study)
            study = read_table(path / "metrics.json" if path.is_dir() else path)
        tables.append(study)
    return judge([row for table in tables for row in table.rows], level=level)
