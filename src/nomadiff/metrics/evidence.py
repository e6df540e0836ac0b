"""One metric of one arm against another arm: paired by seed, with an interval that knows how runs differ.

Four seeds and more stand by themselves, as do three: Student's t over the paired differences. Over *two* seeds that
interval is twelve standard deviations wide. There the spread of a run is estimated from all arms at once, as in a
randomised block design (what remains when every arm's and every seed's mean is taken out; of two arms alone, without
the seeds' means). It is never taken for smaller than the pair's own spread, nor than the resampling error inside a run,
and counts with two degrees of freedom, as arms may differ in it. ``benchmarks/intervals.py`` shows what this covers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomadiff.metrics.intervals import GROUPS

__all__ = ["LOWER_IS_BETTER", "WORDS", "Evidence", "Runs", "against", "seeds_text"]

SHOWN = 4  # seeds from which on a sentence gives means instead of every run
Runs = Mapping[Any, Mapping[str, Any]]
"""The rows of one arm by seed."""

LOWER_IS_BETTER = {"distance", "composition_tv", "style", "replication"}
WORDS = {
    "distance": ("closer to real images", "farther from real images"),
    "composition_tv": ("nearer to the real class shares", "farther from the real class shares"),
    "style": ("less like the synthetic source", "more like the synthetic source"),
    "replication": ("fewer copies of training images", "more copies of training images"),
    "precision": ("more samples look real", "fewer samples look real"),
    "recall": ("more of the real variety is reached", "less of the real variety is reached"),
    "coverage": ("more real images have a sample near them", "fewer real images have a sample near them"),
}


def seeds_text(count: int) -> str:
    """So many seeds in words: "1 seed", "3 seeds"."""
    return "1 seed" if count == 1 else f"{count} seeds"


@dataclass(frozen=True)
class Evidence:
    """One metric of one arm against real-only training.

    Attributes:
        metric: its name in the table.
        role: "distance", or the metric's own name.
        baseline: mean of real-only training over the common seeds.
        value: mean of the arm over the same seeds.
        worse: how much worse the arm is: the relative change for the distance, the difference for all others;
            negative is better.
        low, high: interval of ``worse``; infinite for a single seed.
        seeds: number of common seeds.
        needed: estimated number of seeds at which the interval would leave 0 out; None if it does, or cannot be said.
        runs: of every common seed what real-only training and the arm scored.
    """

    metric: str
    role: str
    baseline: float
    value: float
    worse: float
    low: float
    high: float
    seeds: int
    needed: int | None
    runs: tuple[tuple[float, float], ...] = ()

    def sentence(self) -> str:
        """The finding in words, with its numbers."""
        better, worse = WORDS[self.role]
        words = better if self.worse < 0 else worse
        relative = self.role == "distance"
        amount = f"{abs(self.worse):.0%}" if relative else f"{abs(self.worse):.2g}"
        before, after = (", ".join(f"{value:.3g}" for value in column) for column in zip(*self.runs))
        if self.seeds >= SHOWN:  # the means say enough
            before, after = f"{self.baseline:.3g}", f"{self.value:.3g}"
        # said as the change of the metric itself, whichever way is worse
        ends = (self.low, self.high) if self.role in LOWER_IS_BETTER else (-self.high, -self.low)
        low, high = (f"{end:+.0%}" if relative else f"{end:+.2g}" for end in ends)
        spread = "one seed, so no interval" if self.seeds == 1 else f"change {low} to {high}"
        return f"{words} by {amount} ({self.metric} {after} against {before}; {spread})"


def against(
    before: Runs, arm: Runs, roles: Mapping[str, str], level: float, everything: Sequence[Runs] = ()
) -> dict[str, Evidence]:
    """Everything that was measured of an arm, set against another; by role.

    Args:
        before: what it is compared with.
        arm: the arm.
        roles: for every role the metric's name.
        level: of the intervals.
        everything: all arms of the comparison, these two among them: how their runs differ tells how these do.
    """
    found = {
        role: _evidence(metric, role, before, arm, level, everything or [before, arm]) for role, metric in roles.items()
    }
    return {role: item for role, item in found.items() if item is not None}


def _evidence(
    metric: str, role: str, alone: Runs, arm: Runs, level: float, everything: Sequence[Runs]
) -> Evidence | None:
    """The paired comparison over the seeds both have; None where the metric was not measured."""
    seeds, pairs = [], []
    for seed in arm.keys() & alone.keys():
        # the style of a source is asked of the arms that saw it; real-only training has none to show
        before = alone[seed].get(metric, 0.0 if role == "style" else None)
        if before is not None and arm[seed].get(metric) is not None:
            seeds.append(seed)
            pairs.append((float(before), float(arm[seed][metric])))
    if not pairs:
        return None
    before, after = np.array(pairs).T
    relative = role == "distance"
    change = _log(after) - _log(before) if relative else after - before
    if role not in LOWER_IS_BETTER:
        change = -change
    variance = None
    if len(pairs) == 2:
        of_seeds = [[runs[seed] for seed in seeds] for runs in everything if all(seed in runs for seed in seeds)]
        pooled = _pooled(of_seeds, metric, relative)
        if pooled is not None:
            own = float(change.var(ddof=1)) / 2 if len(everything) > 2 else 0.0
            inside = np.mean([_resampling(runs[seed], metric, relative) for runs in (alone, arm) for seed in seeds])
            variance = 2 * max(own, pooled, float(inside))
    mean, low, high, needed = _interval(change, variance, level)
    if relative:
        mean, low, high = (math.expm1(min(value, 700.0)) for value in (mean, low, high))
    return Evidence(
        metric,
        role,
        float(before.mean()),
        float(after.mean()),
        mean,
        low,
        high,
        seeds=len(pairs),
        needed=needed,
        runs=tuple(pairs),
    )


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, np.finfo(float).tiny))


def _resampling(row: Mapping, metric: str, relative: bool) -> float:
    """Variance that other samples of the same model would have; 0 where the row has no interval."""
    from scipy.special import stdtrit

    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if low is None or high is None:
        return 0.0
    error = (high - low) / 2 / float(stdtrit(GROUPS - 1, 0.975))
    return (error / max(abs(row[metric]), np.finfo(float).tiny) if relative else error) ** 2


def _pooled(rows: list[list[Mapping]], metric: str, relative: bool) -> float | None:
    """Variance of a run from all arms that measured the metric at all of these seeds; None for less than two arms."""
    measured = [[row.get(metric) for row in arm] for arm in rows]
    values = np.array([arm for arm in measured if None not in arm], float)
    if len(values) < 2:
        return None
    if relative:
        values = _log(values)
    values = values - values.mean(axis=1, keepdims=True)
    freedom = len(values) * (values.shape[1] - 1)
    if len(values) > 2:
        values = values - values.mean(axis=0)
        freedom = (len(values) - 1) * (values.shape[1] - 1)
    return float(np.square(values).sum()) / freedom


def _interval(change: np.ndarray, variance: float | None, level: float) -> tuple[float, float, float, int | None]:
    """Mean, interval, and the number of seeds at which the interval would leave 0 out.

    ``variance`` of a change is known from elsewhere where it is given, with a freedom of 2.
    """
    from scipy.special import stdtrit

    count, mean = len(change), float(change.mean())
    if count == 1:
        return mean, -math.inf, math.inf, None
    spread, freedom = float(change.std(ddof=1)), count - 1
    if variance is not None:
        spread, freedom = math.sqrt(variance), 2
    width = float(stdtrit(freedom, (1 + level) / 2)) * spread / math.sqrt(count)
    needed = None
    if abs(mean) <= width and mean != 0:
        for more in range(count + 1, 101):
            if float(stdtrit(more - 1, (1 + level) / 2)) * spread / math.sqrt(more) < abs(mean):
                needed = more
                break
    return mean, mean - width, mean + width, needed
