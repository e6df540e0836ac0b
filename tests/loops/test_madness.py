from __future__ import annotations

import numpy as np
import pytest

from nomadiff.errors import UsageError
from nomadiff.loops.madness import bootstrap_ratio, converged_from, madness


def curves(ends: list[float], runs: int = 40, spread: float = 0.1) -> np.ndarray:
    """Runs around one curve of expected distances."""
    noise = np.random.default_rng(0).lognormal(0, spread, size=(runs, len(ends)))
    return np.array(ends) * noise


def test_the_three_verdicts_of_the_paper() -> None:
    rising = madness(curves([1, 2, 3, 4, 5, 6, 7, 8]))
    assert (rising.verdict, rising.certain) == ("MAD", True)
    resting = madness(curves([1, 2, 3, 3, 3, 3, 3, 3]))
    assert (resting.verdict, resting.certain) == ("mitigated", True)
    better = madness(curves([1, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]))
    assert (better.verdict, better.certain) == ("prevented", True)
    level = madness(curves([1] * 8, runs=6, spread=0.5))
    assert not level.certain


def test_ratio_of_means_and_medians() -> None:
    distances = np.array([[1.0, 9, 2, 4], [3.0, 9, 6, 8], [2.0, 9, 30, 30]])
    result = madness(distances)
    assert result.g1_mean == 2 and result.g1_median == 2
    assert result.g_inf_mean == pytest.approx((3 + 7 + 30) / 3) and result.g_inf_median == 7
    assert result.ratio == pytest.approx(40 / 6)
    assert result.ratio_low < result.ratio < result.ratio_high


def test_what_counts_as_converged() -> None:
    assert converged_from(100) == 20  # the paper averages over t = 20..100
    assert converged_from(12) == 7
    assert converged_from(3) == 2


def test_a_diverged_run_makes_the_mean_infinite_but_not_the_median() -> None:
    distances = curves([1, 2, 2, 2])
    distances[0, 3] = np.inf
    result = madness(distances)
    assert result.g_inf_mean == np.inf and result.ratio == np.inf and np.isfinite(result.g_inf_median)
    assert result.verdict != "prevented"


def test_the_interval_covers() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        base = generator.uniform(1, 3, size=30)
        ratio, low, high = bootstrap_ratio(1.5 * base + generator.normal(0, 1, size=30), base)
        assert low < ratio < high
        covered += low <= 1.5 <= high
    assert 165 <= covered <= 195  # 90 % asked; the bootstrap of 30 runs covers a little less


def test_one_generation_has_no_ratio() -> None:
    with pytest.raises(UsageError, match="two generations"):
        madness(np.ones((3, 1)))


def test_few_runs_decide_nothing() -> None:
    for runs in (1, 2, 4):
        few = madness(curves([1, 2, 3, 4, 5, 6, 7, 8], runs=runs))
        assert (few.verdict, few.certain) == ("undecided", False)
    assert madness(curves([1, 2, 3, 4, 5, 6, 7, 8], runs=5)).verdict == "MAD"


def test_a_curve_that_still_moves_is_neither_at_rest_nor_prevented() -> None:
    short = madness(curves([1, 1.5, 2, 2.5, 3, 3.5], runs=8))
    assert (short.verdict, short.certain) == ("undecided", False)
    assert madness(curves([1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0, 1.6])).verdict == "undecided"  # the mean is below 1
    assert madness(curves([1, 6, 5, 4, 2, 1.2, 0.9, 0.8])).verdict == "undecided"  # the mean is above
    assert madness(curves([1, 0.8, 0.7, 0.7])).verdict == "prevented"
