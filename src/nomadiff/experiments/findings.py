"""The answer in sentences: what a table of arms says, with how sure it is. It must be able to say no."""

from __future__ import annotations

from nomadiff.reports.page import Finding
from nomadiff.tables import Table, summarise

__all__ = ["findings"]


def findings(table: Table, distance: str) -> list[Finding]:
    """Sentences on every synthetic source: CASD against real-only, SDA against CASD, and replication.

    A difference is called one only when it has the same sign in every seed; otherwise the sentence says so.

    Args:
        table: rows with ``method``, ``source``, ``seed`` and metrics.
        distance: name of the distance column, lower is better.
    """
    sources = list(dict.fromkeys(row["source"] for row in table.rows if row["source"]))
    means = {
        (row["method"], row["source"]): row
        for row in summarise(table.rows, ["method", "source"], [distance, "replication"])
    }
    result = []
    for source in sources:
        for method in ("casd", "sda"):
            here, alone = means.get((method, source)), means.get(("dm", ""))
            if here is None or alone is None:
                continue
            ratio = here[distance] / alone[distance]
            wins = _seeds_better(table, (method, source), ("dm", ""), distance)
            sure = wins in (0, here["count"])
            text = (
                f"Source “{source}”: {method.upper()} is {_relation(ratio)} real images than real-only training "
                f"({distance} {here[distance]:.3g} against {alone[distance]:.3g}; "
                f"better in {wins} of {here['count']} seeds)."
            )
            result.append(Finding(text, ("good" if ratio < 1 else "bad") if sure else "neutral"))
        both = means.get(("sda", source)), means.get(("casd", source))
        if both[0] and both[1]:
            ratio = both[0][distance] / both[1][distance]
            text = (
                f"Source “{source}”: telling sources apart changes the distance by a factor of {ratio:.2f} "
                f"(SDA {both[0][distance]:.3g}, CASD {both[1][distance]:.3g})."
            )
            result.append(Finding(text, "good" if ratio > 1.05 else "bad" if ratio < 0.95 else "neutral"))
        copied = means.get(("casd", source), {}).get("replication"), means.get(("dm", ""), {}).get("replication")
        if copied[0] is not None and copied[1] is not None:
            text = (
                f"Source “{source}”: {copied[0]:.0%} of CASD's samples replicate a training image, "
                f"{copied[1]:.0%} of real-only training's (fresh real images: 5 %)."
            )
            result.append(Finding(text, "good" if copied[0] < copied[1] else "bad"))
    return result


def _relation(ratio: float) -> str:
    if ratio > 2:
        return f"{ratio:.1f} times as far from"
    return f"{abs(1 - ratio):.0%} {'closer to' if ratio < 1 else 'farther from'}"


def _seeds_better(table: Table, one: tuple[str, str], other: tuple[str, str], metric: str) -> int:
    def by_seed(arm: tuple[str, str]) -> dict[int, float]:
        return {row["seed"]: row[metric] for row in table.rows if (row["method"], row["source"]) == arm}

    first, second = by_seed(one), by_seed(other)
    return sum(first[seed] < second[seed] for seed in first.keys() & second.keys())
