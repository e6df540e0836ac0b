"""MADness of a curve of distances over generations, in the words of SIMS section 2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomadiff.errors import UsageError

__all__ = ["LEVEL", "RUNS", "Madness", "bootstrap_ratio", "converged_from", "madness"]

LEVEL = 0.9
"""Probability of the intervals: 5 to 95 %."""

RUNS = 5
"""Fewer runs decide nothing: the bootstrap of so few is narrower than the truth."""


@dataclass(frozen=True)
class Madness:
    """How a loop ends, compared with how it began.

    Attributes:
        g1_mean: mean over runs of the first generation's distance, ``E[dist(G^1)]``.
        g1_median: its median over runs.
        g_inf_mean: mean over runs of the distance at convergence, ``E[dist(G^inf)]``: each run's mean over the
            generations from :func:`converged_from` on.
        g_inf_median: its median over runs; far below the mean when few runs decide it.
        ratio: ``g_inf_mean / g1_mean``, the MADness ratio of the paper's Figure 5.
        ratio_low: lower end of the ratio's bootstrap interval over runs.
        ratio_high: its upper end.
        verdict: ``"prevented"`` if the ratio is at most 1; ``"MAD"`` if it is above and the curve still rises at its
            end; ``"mitigated"`` if it is above and the curve has come to rest. ``"undecided"`` for fewer than
            :data:`RUNS` runs, for a ratio above 1 over too few generations to see a rise, and for a curve whose end
            says the other thing than its mean.
        certain: False if the interval contains 1, so that more runs could turn the verdict, or if it is undecided.
    """

    g1_mean: float
    g1_median: float
    g_inf_mean: float
    g_inf_median: float
    ratio: float
    ratio_low: float
    ratio_high: float
    verdict: str
    certain: bool


def converged_from(generations: int) -> int:
    """The first generation counted as converged: 20 as in the paper if there are 40 or more, else the last half's."""
    return 20 if generations >= 40 else generations // 2 + 1


def madness(distances: np.ndarray) -> Madness:
    """Judge the distances of a loop to the real distribution.

    A curve "still rises" if the mean over the last half of the converged generations exceeds that over their first half
    in at least 95 % of bootstrap draws of the runs; it needs 4 converged generations to say so.

    Args:
        distances: float ``(runs, generations)``, generation 1 first; inf for a diverged model.

    Raises:
        UsageError: fewer than two generations.
    """
    distances = np.asarray(distances, dtype=np.float64)
    runs, generations = distances.shape
    if generations < 2:
        raise UsageError("a MADness ratio needs at least two generations")
    first = distances[:, 0]
    late = distances[:, converged_from(generations) - 1 :]
    last = late.mean(axis=1)
    ratio, low, high = bootstrap_ratio(last, first)
    half = late.shape[1] // 2
    end = float(late[:, -max(half, 1) :].mean() / first.mean())
    with np.errstate(invalid="ignore"):
        rise = late[:, -half:].mean(axis=1) - late[:, :half].mean(axis=1) if half > 1 else np.zeros(runs)
        rising = np.quantile(rise[_draws(runs)].mean(axis=1), 1 - (1 + LEVEL) / 2) > 0
    if runs < RUNS or (end > 1) != (ratio > 1) or (ratio > 1 and half < 2):
        verdict = "undecided"
    else:
        verdict = "prevented" if ratio <= 1 else "MAD" if rising else "mitigated"
    return Madness(
        g1_mean=float(first.mean()),
        g1_median=float(np.median(first)),
        g_inf_mean=float(last.mean()),
        g_inf_median=float(np.median(last)),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        verdict=verdict,
        certain=verdict != "undecided" and not low <= 1 <= high,
    )


def bootstrap_ratio(values: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """Ratio of two means over the same runs, and its interval (:data:`LEVEL`) when runs are drawn with replacement.

    Args:
        values: float ``(runs,)``.
        base: float ``(runs,)``, positive; entry ``r`` of both belongs to run ``r``.

    Returns:
        ``mean(values) / mean(base)``, lower and upper end.
    """
    chosen = _draws(len(values))
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(
            values[chosen].mean(axis=1) / base[chosen].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        )
    return float(values.mean() / base.mean()), float(low), float(high)


def _draws(runs: int) -> np.ndarray:
    """The same draws every time: a table made twice is the same table."""
    return np.random.default_rng(0).integers(runs, size=(4000, runs))
