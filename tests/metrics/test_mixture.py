"""Two-sample classifier and shares of sources: right on mixtures whose shares are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.mixture import bound_on_share, is_separable, separation, shares_of_sources


def draw(count: int, seed: int, shift: float = 0.0, dimension: int = 4) -> torch.Tensor:
    """Gaussians, shifted along the first axis."""
    x = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += shift
    return x


def test_two_draws_of_one_distribution_cannot_be_told_apart() -> None:
    inside = 0
    for seed in range(40):
        result = separation(draw(80, 2 * seed), draw(60, 2 * seed + 1), seed=seed)
        inside += result.low <= 0.5 <= result.high
    assert inside >= 34  # 38 expected


def test_area_under_the_curve_is_that_of_the_best_direction() -> None:
    shift = 1.5
    expected = float(torch.special.ndtr(torch.tensor(shift / 2**0.5)))  # probability that N(s, 1) exceeds N(0, 1)
    result = separation(draw(1000, 0), draw(1000, 1, shift))
    assert result.low <= expected <= result.high and result.high - result.low < 0.05
    same = torch.ones(30, 2)
    assert separation(same, same).auc == 0.5  # all scores tie
    for count, low in ((20, 0.8316), (200, 0.9817)):  # of few images perfect order says less
        found = separation(same[:1].expand(count, -1), same[:1].expand(count, -1) + 1)
        assert (found.auc, found.high) == (1, 1) and found.low == pytest.approx(low, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5])
def test_shares_are_recovered_with_intervals_that_cover(share: float) -> None:
    covered, estimates = 0, []
    for seed in range(10):
        added = round(share * 300)
        mixed = torch.cat([draw(300 - added, 10 * seed), draw(added, 10 * seed + 1, 2.5)])
        trusted, source = draw(300, 10 * seed + 2), draw(300, 10 * seed + 3, 2.5)
        found = shares_of_sources(mixed, {"s": source}, trusted, seed=seed)["s"]
        covered += found.low <= share <= found.high
        estimates.append(found.share)
    assert covered >= 8
    assert np.mean(estimates) == pytest.approx(share, abs=0.02)


def test_two_sources_are_not_mistaken_for_one_another() -> None:
    mixed = torch.cat([draw(200, 0), draw(60, 1, 4), draw(140, 2, 8)])
    sources = {"near": draw(200, 3, 4), "far": draw(200, 4, 8)}
    found = shares_of_sources(mixed, sources, draw(200, 5))
    assert found["near"].share == pytest.approx(0.15, abs=0.03)
    assert found["far"].share == pytest.approx(0.35, abs=0.03)
    alone = shares_of_sources(mixed, {"near": sources["near"]}, draw(200, 5))["near"].share
    assert alone == pytest.approx(0.5, abs=0.1)  # what is not given counts for what it looks like most


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_without_trusted_images_the_bound_holds(share: float) -> None:
    held = 0
    for seed in range(10):
        added = round(share * 300)
        mixed = torch.cat([draw(300 - added, 10 * seed), draw(added, 10 * seed + 1, 4)])
        found = bound_on_share(mixed, draw(300, 10 * seed + 2, 4), seed=seed)
        assert found.bound_only and found.low == 0
        held += found.high >= share
        assert found.high < share + 0.2  # and is of use where the source is far off
    assert held == 10
    assert bound_on_share(draw(200, 0), draw(200, 1)).high > 0.8  # near 1, so of no use, where it is not


@pytest.mark.parametrize("copied", ["source", "trusted"])
def test_copies_between_the_sets_do_not_move_a_share(copied: str) -> None:
    """In many dimensions a model knows what it was fitted on; where a picture is in two sets, that is no evidence."""
    count, told, untold = 100, [], []
    for seed in range(4):
        real, made = draw(2 * count, 10 * seed, 0.0, 200), draw(2 * count, 10 * seed + 1, 2.0, 200)
        of_real, of_made = torch.arange(2 * count), torch.arange(2 * count, 4 * count)
        first, last = slice(count), slice(count, None)
        r, m = (last, first) if copied == "source" else (first, last)  # which of each are in the folder
        mixed, of_mixed = torch.cat([real[r], made[m]]), torch.cat([of_real[r], of_made[m]])
        groups = (of_real[first], of_made[first], of_mixed)
        sets = mixed, {"s": made[first]}, real[first]
        told.append(shares_of_sources(*sets, groups=groups)["s"])
        untold.append(shares_of_sources(*sets)["s"].share)
    assert np.mean([found.share for found in told]) == pytest.approx(0.5, abs=0.07)
    assert all(found.low <= 0.5 <= found.high for found in told)
    assert abs(np.mean(untold) - 0.5) > 0.1


def test_copies_between_the_sets_make_no_difference_that_is_none() -> None:
    """Half of both sets are the same pictures: a model that knows them from the other set is no worse than chance."""
    first, second = draw(100, 0, 0.0, 100), draw(100, 1, 0.0, 100)
    second[:50] = first[:50]
    groups = torch.arange(100), torch.cat([torch.arange(50), torch.arange(100, 150)])
    found = separation(first, second, groups=groups)
    assert found.low <= 0.5 <= found.high
    assert separation(first, second).high < 0.5  # the models learn the wrong side by heart


def test_what_cannot_be_told_apart_is_said() -> None:
    assert is_separable(draw(100, 0), draw(100, 1, 1.0))
    assert not any(is_separable(draw(100, 2 * seed), draw(100, 2 * seed + 1)) for seed in range(10))


def test_a_set_of_one_picture_is_told() -> None:
    groups = torch.arange(40), torch.full((40,), 40)
    with pytest.raises(UsageError, match="40 images that are copies of hardly any pictures"):
        separation(draw(40, 0), draw(40, 1), groups=groups)


def test_bad_input_is_told() -> None:
    good = draw(30, 0)
    with pytest.raises(UsageError, match="at least 20 images a side, got 19"):
        separation(good, good[:19])
    with pytest.raises(UsageError, match="different dimensions"):
        separation(good, good[:, :2])
    with pytest.raises(UsageError, match="not finite"):
        bound_on_share(good, good / 0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        separation(good, good, level=95)
