"""``nomadiff table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer
from nomadiff.cli.lines import aligned

__all__ = ["table"]


def table(
    *runs: Annotated[str, Parameter(help="Folders of compare, improve, loop, ..., or tables of scores, [name=]path.")],
    out: Path | None = None,
) -> Answer:
    """Put the scores of runs that are on disk side by side; nothing is drawn or scored again.

    An example:

    nomadiff table study/ first=improved/ samples/metrics.json

    Figures are means over seeds. Runs that were judged by another detector, reference or number of samples are named:
    their figures do not compare.

    Args:
        runs: runs.
        out: Where to write the table, if anywhere: JSON, with CSV beside it.
    """
    from nomadiff.tables import check_table
    from nomadiff.workflows.score_table import score_table

    if out is not None:
        check_table(out)
    found = score_table(*runs)
    metrics = found.meta["metrics"]
    lines = [["run", "arm", "runs", *metrics]]
    for row in found.rows:
        cells = []
        for metric in metrics:
            value, spread = row.get(metric), row.get(f"{metric}_sd")
            text = "-" if value is None else f"{value:.4g}"
            cells.append(text if spread is None else f"{text} ± {spread:.2g}")
        lines.append([row["run"], row["arm"], str(row["runs"]), *cells])
    if out is not None:
        found.write(out)
    text = "\n".join([aligned(lines), *found.meta["notes"]])
    return Answer(text=text, value=found, files={} if out is None else {"table": out})
