"""``nomadiff verdict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer
from nomadiff.cli.next_steps import after_verdict

__all__ = ["verdict"]


def verdict(
    *studies: Annotated[Path, Parameter(help="Folders of compare, or their metrics.json.")],
    level: float = 0.95,
    out: Path | None = None,
) -> Answer:
    """Say whether synthetic data helped: no harm, utility, adaptability, with intervals over seeds, and what to do.

    An example:

    nomadiff verdict study/

    Args:
        studies: one or more comparisons; their rows are judged together.
        level: Level of the intervals.
        out: Where to write the evidence as a table, if anywhere.
    """
    from nomadiff.tables import check_table
    from nomadiff.workflows.verdict import verdict as run

    if out is not None:
        check_table(out)
    found = run(*studies, level=level)
    if out is not None:
        found.table().write(out)
    return Answer(
        text=found.text(),
        value=found.table(),
        files={} if out is None else {"table": out},
        next=after_verdict(studies[0], found.step) if len(studies) == 1 else (),
    )
