"""``verdict``: what finished comparisons say together."""

from __future__ import annotations

from pathlib import Path

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
            detectors, references or numbers of samples.
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
    if told := differences({name: conditions_of(table) for name, table in tables.items()}):
        raise UsageError(f"{told[0]}: ask for the verdict on each study by itself")
    return judge([row for table in tables.values() for row in table.rows], level=level)
