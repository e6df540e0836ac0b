"""Jackknife intervals: the left-out values are those of the smaller sets, and intervals cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.errors import UsageError
from nomadiff.metrics import intervals, manifold
from nomadiff.metrics.arrays import metrics_of_arrays
from nomadiff.metrics.frechet import Statistics, frechet_distance_from_features, frechet_left_out
from nomadiff.metrics.intervals import GROUPS, jackknife_interval, means_left_out, random_groups, share_interval
from nomadiff.metrics.kid import kid, kid_left_out
from nomadiff.metrics.manifold import prdc, prdc_left_out


def draw(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_groups_are_even_and_a_function_of_the_seed() -> None:
    member = random_groups(90)
    assert sorted(torch.bincount(member).tolist()) == [4] * 10 + [5] * 10
    assert torch.equal(member, random_groups(90)) and not torch.equal(member, random_groups(90, seed=1))
    with pytest.raises(UsageError, match="at least 40 samples, got 39"):
        random_groups(39)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 40),
    m=st.integers(40, 80),
    d=st.integers(1, 5),
    k=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["normal", "grid", "copies"]),
    convention=st.sampled_from(manifold.CONVENTIONS),
)
def test_left_out_is_the_metric_without_the_group(n, m, d, k, seed, kind, convention) -> None:
    """Also where points coincide, and where a group holds most of a point's neighbours."""
    real, fake, member = draw(n, d, seed), draw(m, d, seed + 1), random_groups(m)
    if kind == "grid":
        real, fake = (2 * real).round(), (2 * fake).round()
    elif kind == "copies":
        fake = real[:20].repeat(4, 1)[:m] if n >= 20 else real[:8].repeat(10, 1)[:m]
        member = torch.arange(m) // 2 % GROUPS  # neighbours share a group
    if float(manifold.radii(real, k).max()) == 0:
        return
    values, left_out = prdc_left_out(real, fake, member, k, convention)
    assert values == prdc(real, fake, k, convention)
    distances = frechet_left_out(Statistics.from_features(real), fake, member)
    kernel, kernels = kid_left_out(real, fake, member)
    assert kernel == pytest.approx(kid(real, fake), rel=1e-9, abs=1e-12)
    for group in (0, 7, 19):
        rest = fake[member != group]
        expected = prdc(real, rest, k, convention)
        assert {name: float(column[group]) for name, column in left_out.items()} == pytest.approx(expected, abs=1e-12)
        expected = frechet_distance_from_features(real, rest)
        assert distances[group] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert kernels[group] == pytest.approx(kid(real, rest), rel=1e-9, abs=1e-9)


def test_too_small_for_intervals_is_told() -> None:
    with pytest.raises(UsageError, match="fake without a twentieth: .* more than 40 images, got 38"):
        prdc_left_out(draw(50, 2, 0), draw(40, 2, 1), random_groups(40), 40)
    with pytest.raises(UsageError, match=r"between 0 and 1 \(0.95 for 95 %\), got 95"):
        jackknife_interval(0.0, [0.0, 1.0], 95)


def test_standard_error_of_a_mean() -> None:
    """For a mean with groups of one, the jackknife is the textbook standard error exactly."""
    from scipy.stats import t

    x = draw(40, 1, 0)[:, 0].double()
    member = random_groups(40)
    low, high = jackknife_interval(float(x.mean()), means_left_out(x, member), 0.95)
    groups = torch.stack([x[member == group].mean() for group in range(GROUPS)])
    error = float(groups.std()) / GROUPS**0.5
    np.testing.assert_allclose([low, high], float(x.mean()) + np.array([-1, 1]) * t.ppf(0.975, 19) * error, rtol=1e-9)


def test_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        x = random.exponential(size=200)
        member = intervals.random_groups(200).numpy()
        low, high = jackknife_interval(x.std(), [x[member != group].std() for group in range(GROUPS)], 0.9)
        hits += low <= 1 <= high
    assert 160 <= hits <= 195  # 180 expected; skewed data costs some


def test_the_interval_of_a_share_is_exact() -> None:
    """The binomial tails beyond its ends have what the level leaves, and there is a width at 0 and 1 too."""
    from scipy.stats import binom

    for found, count, level in ((20, 200, 0.95), (30, 50, 0.9), (1, 40, 0.99)):
        low, high = share_interval(found / count, count, level)
        assert low < found / count < high
        tail = (1 - level) / 2
        assert binom.sf(found - 1, count, low) == pytest.approx(tail)
        assert binom.cdf(found, count, high) == pytest.approx(tail)
    assert share_interval(0.0, 1000) == (0, pytest.approx(0.0037, abs=5e-5))
    assert share_interval(1.0, 1000) == (pytest.approx(0.9963, abs=5e-5), 1)
    for share, count, level in ((0.5, 0, 0.95), (1.5, 10, 0.95), (0.5, 10, 1.0)):
        with pytest.raises(UsageError, match="no interval"):
            share_interval(share, count, level)


def test_what_no_or_every_sample_does_is_not_known_exactly() -> None:
    """Samples far from every real vector, and no copy among them: precision and replication of 0 among 50."""
    real, train = draw(60, 2, 0).numpy(), draw(60, 2, 2).numpy()
    rows = {row["metric"]: row for row in metrics_of_arrays(real, draw(50, 2, 1).numpy() + 100, train).rows}
    for name in ("precision", "replication"):
        assert rows[name]["value"] == rows[name]["low"] == 0
        assert rows[name]["high"] == pytest.approx(0.0711, abs=1e-4), name
