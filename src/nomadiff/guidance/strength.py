"""How strongly a guidance acts, and at which noise levels."""

from __future__ import annotations

from nomadiff.errors import UsageError

__all__ = ["LARGEST_WEIGHT", "Interval", "check_guidance"]

Interval = tuple[float, float]

LARGEST_WEIGHT = 1e6
"""Weights are of the order of 1; one that is not finite, or makes float32 overflow, draws nothing but black images."""


def check_guidance(weight: float, interval: Interval | None) -> None:
    """Check a guidance weight and interval.

    Raises:
        UsageError: the weight is not finite or beyond any use, or the interval is not ``0 <= low < high``.
    """
    if not abs(weight) <= LARGEST_WEIGHT:  # NaN compares as false
        raise UsageError(
            f"a guidance weight must be finite, from -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, got {weight:g}"
        )
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise UsageError(f"a guidance interval in sigma needs 0 <= low < high, got {interval[0]:g}:{interval[1]:g}")
