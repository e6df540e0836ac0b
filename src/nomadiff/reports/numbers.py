"""Numbers as a table shows them: as many digits as distinguish arms, the same number of decimals down a column."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["as_number", "cell_text", "column_decimals", "difference_text", "fixed"]


def as_number(value: Any) -> float | None:
    """``value`` (plain, numpy or torch) as a finite float; None for anything else (text, None, NaN, infinity)."""
    if isinstance(value, (str, bytes, bool)) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def column_decimals(values: Iterable[float | None]) -> int:
    """Decimals, 0..4, that show the largest of ``values`` to about a part in five hundred: 0.938, 1.204, 97.1, 213."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if largest == 0:
        return 0
    return min(4, max(0, 2 - math.floor(math.log10(largest / 2))))


def fixed(value: float | None, decimals: int) -> str:
    """``value`` with that many decimals, thousands apart and a true minus sign; an en dash for None."""
    return "–" if value is None else f"{value:,.{decimals}f}".replace("-", "−")


def cell_text(value: Any) -> str:
    """One value of a detailed table: whole numbers exactly, others with four significant digits, the rest as text."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def difference_text(row: Mapping[str, Any]) -> str:
    """A ``difference`` with its interval, starred where that leaves out 0: ``-1.2 [-1.5, -0.9] *``; a dash for none."""
    if row.get("difference") is None:
        return "-"
    text = f"{row['difference']:+.3g}"
    if row.get("difference_low") is None:
        return text
    low, high = row["difference_low"], row["difference_high"]
    return f"{text} [{low:.3g}, {high:.3g}]{' *' if low > 0 or high < 0 else ''}"
