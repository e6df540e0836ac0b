"""Frechet distance against closed forms, scipy's square root, and merged streams."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.errors import UsageError
from nomadiff.metrics.frechet import (
    Statistics,
    StatisticsAccumulator,
    frechet_distance,
    frechet_distance_from_features,
    frechet_left_out,
)
from nomadiff.metrics.intervals import GROUPS, random_groups


def gaussian(mean: list[float], covariance: list[list[float]]) -> Statistics:
    return Statistics(torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64))


def features(count: int, dimension: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator) / dimension**0.5
    return scale * torch.randn(count, dimension, generator=generator) @ mixing + 3


def scipy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula as Heusel et al. compute it."""
    from scipy.linalg import sqrtm

    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)


def test_two_known_gaussians() -> None:
    # commuting covariances: |mu|^2 + sum (sqrt(a) - sqrt(b))^2
    a = gaussian([1.0, 2.0, 0.0], [[4, 0, 0], [0, 9, 0], [0, 0, 1]])
    b = gaussian([0.0, 0.0, 0.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 4 + 0, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(10, rel=1e-12)


def test_two_known_gaussians_that_do_not_commute() -> None:
    # 2x2: tr (S T)^(1/2) = sqrt(tr(S T) + 2 sqrt(det(S T)))
    s, t = [[2.0, 1.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 0.5]]
    product = np.array(s) @ np.array(t)
    shared = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 4 + 3.5 - 2 * shared
    assert frechet_distance(gaussian([0, 0], s), gaussian([0, 0], t)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 300), (200, 20), (20, 200), (20, 25), (33, 32)])
def test_agrees_with_scipy_also_below_full_rank(n: int, m: int) -> None:
    a, b = features(n, 32, 0), features(m, 32, 1, scale=1.5)
    # the square root of a singular product is itself only good to about 1e-6
    assert frechet_distance_from_features(a, b) == pytest.approx(
        scipy_distance(a, b), rel=1e-5 if min(n, m) <= 32 else 1e-10
    )


def other_features(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    return features(n, 64, 0).double(), features(m, 64, 1, scale=1.2).double()


@pytest.mark.parametrize(("n", "m"), [(500, 400), (40, 400), (40, 50)])
def test_agrees_with_torchmetrics(n: int, m: int) -> None:
    if importlib.util.find_spec("torchmetrics") is None:
        pytest.skip("torchmetrics is an oracle only, it is not installed")
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 64

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    a, b = other_features(n, m)
    theirs = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    assert frechet_distance_from_features(a, b) == pytest.approx(float(theirs.compute()), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(500, 400), (40, 400), (40, 50)])
def test_agrees_with_torch_fidelity(torch_fidelity, n: int, m: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = other_features(n, m)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    value = next(iter(theirs.values()))
    assert frechet_distance_from_features(a, b) == pytest.approx(float(value), rel=1e-6)


def test_rank_deficient_is_exact() -> None:
    """Two sets in one line: the distance is that of two numbers, whatever the dimension around them."""
    direction = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    x, y = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 7.0])
    a, b = x[:, None] * direction, y[:, None] * direction
    expected = float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert frechet_distance_from_features(a.double(), b.double()) == pytest.approx(expected, rel=1e-6)
    # the same from covariances alone, whose root has to be found
    s, t = Statistics.from_features(a), Statistics.from_features(b)
    bare = frechet_distance(Statistics(s.mean, s.covariance), Statistics(t.mean, t.covariance))
    assert bare == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 12), seed=st.integers(0, 1000))
def test_distance_is_symmetric_zero_to_itself_and_invariant_to_rotation(n: int, m: int, d: int, seed: int) -> None:
    a, b = features(n, d, seed).double(), features(m, d, seed + 1).double()
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    value = frechet_distance_from_features(a, b)
    assert value >= 0
    assert frechet_distance_from_features(b, a) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert frechet_distance_from_features(a @ rotation + 1, b @ rotation + 1) == pytest.approx(
        value, rel=1e-6, abs=1e-6
    )
    assert frechet_distance_from_features(a, a) == pytest.approx(0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 1000))
def test_stream_in_any_cuts_is_the_whole(cuts: list[int], seed: int) -> None:
    x = 1e4 + features(60, 5, seed).double()  # a large mean: sums of squares in one pass would lose the covariance
    stream, other = StatisticsAccumulator(), StatisticsAccumulator()
    edges = [0, *sorted(cuts), 60]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        (stream if number % 2 else other).update(x[start:stop])
    merged = stream.merge(other).finish()
    assert merged.count == 60
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_bad_features_are_told() -> None:
    good = features(10, 4, 0)
    spoiled = good.clone()
    spoiled[7, 2] = torch.nan
    with pytest.raises(UsageError, match="features: row 7 is not finite"):
        frechet_distance_from_features(good, spoiled)
    with pytest.raises(UsageError, match="at least 2 features, got 1"):
        frechet_distance_from_features(good, good[:1])
    with pytest.raises(UsageError, match="dimension 4 and 3"):
        frechet_distance_from_features(good, good[:, :3])
    with pytest.raises(UsageError, match=r"must be \(N, D\)"):
        Statistics.from_features(good.reshape(10, 2, 2))
    with pytest.raises(UsageError, match="dimension 3 cannot be added to features of 4"):
        StatisticsAccumulator().update(good).update(good[:, :3])


def test_constant_features_have_a_distance() -> None:
    point = torch.ones(5, 3)
    assert frechet_distance_from_features(point, 3 * point) == pytest.approx(12, rel=1e-12)


SIZES = [(200, 100, 48), (100, 30, 48), (40, 100, 48), (44, 40, 48), (44, 30, 48), (48, 48, 48), (60, 500, 8)]


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_left_out_is_the_distance_of_what_is_left(n: int, m: int, d: int) -> None:
    """Samples n, reference m, dimension d: all orders of the three."""
    member = random_groups(n)
    a, b = features(n, d, 0), features(m, d, 1, scale=1.3)
    b[:, 0] = a[:, 0] = 2.0  # a dimension that says nothing: no covariance has full rank
    without = frechet_left_out(Statistics.from_features(b), a, member)
    expected = [frechet_distance_from_features(b, a[member != group]) for group in range(GROUPS)]
    np.testing.assert_allclose(without, expected, rtol=1e-6)
    bare = Statistics(Statistics.from_features(b).mean, Statistics.from_features(b).covariance)
    np.testing.assert_allclose(frechet_left_out(bare, a, member), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(60, 45), (45, 60), (400, 45), (45, 400)])
def test_few_features_take_no_matrix_of_all_dimensions_apart(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    d, sizes = 300, []
    for name in ("eigh", "eigvalsh", "cholesky_ex", "svdvals", "svd"):
        original = getattr(torch.linalg, name)

        def counted(x: torch.Tensor, *args: object, original=original, **options: object) -> object:
            sizes.append(min(x.shape))
            return original(x, *args, **options)

        monkeypatch.setattr(torch.linalg, name, counted)
    a, b = features(n, d, 0), features(m, d, 1, scale=1.3)
    reference = Statistics.from_features(b)
    frechet_distance(reference, Statistics.from_features(a))
    if m < d:  # the root of a larger reference is taken once
        frechet_left_out(reference, a, random_groups(n))
    assert sizes and max(sizes) <= min(n, m)
