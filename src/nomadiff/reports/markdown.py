"""Conclusions of a recipe in Markdown: numbers and intervals in a sentence, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["interval", "markdown_table", "significant"]


def significant(value: float) -> str:
    """Three significant digits, without an exponent for numbers a table of distances has."""
    if value != value or value in (float("inf"), float("-inf")):
        return "diverged"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(low: float, high: float) -> str:
    """A 5-95 % interval in brackets."""
    return f"[{significant(low)}, {significant(high)}]"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [significant(cell) if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
