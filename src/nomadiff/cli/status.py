"""``nomadiff status``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nomadiff.cli.answer import Answer

__all__ = ["status"]


def status(study: Path) -> Answer:
    """Show what each job of a study does: done, running (where, how fast, how long), waiting or failed (and why).

    An example:

    nomadiff status study/

    Args:
        study: The --out of compare, improve, loop or a CASD recipe of reproduce.
    """
    from nomadiff.files import printable
    from nomadiff.progress import duration_text
    from nomadiff.studies.work import study_status
    from nomadiff.tables import Table

    rows = study_status(study)
    lines = []
    width = max(len(row["job"]) for row in rows)
    for row in rows:
        words = [f"{printable(row['job']):{width}}  {row['state']:8}"]
        if row["of"]:
            words.append(f"{row['images']:>12,} of {row['of']:,} images")
        if row["images_per_second"]:
            words.append(f"{row['images_per_second']:,.4g} images/s, {duration_text(3600 * row['hours_left'])} left")
        words += [printable(row["where"]), printable(row["error"])]
        lines.append("  ".join(filter(None, words)).rstrip())
    counts = Counter(row["state"] for row in rows)
    lines.append(", ".join(f"{counts[name]} {name}" for name in ("done", "running", "waiting", "failed")))
    return Answer(text="\n".join(lines), value=Table(rows))
