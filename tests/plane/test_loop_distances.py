from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from nomadiff.errors import UsageError
from nomadiff.plane.distances import bures_wasserstein, exact_transport_floor, exact_wasserstein, sliced_wasserstein
from nomadiff.plane.worlds import world


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int = 500) -> np.ndarray:
    """Points whose mean and covariance (divided by n) are exactly these."""
    points = np.random.default_rng(0).normal(size=(count, 2))
    points = (points - points.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T, bias=True))).T
    return points @ np.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize("seed", range(5))
def test_bures_is_the_closed_form_with_matrix_roots(seed: int) -> None:
    target = world("gaussian")
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(2, 2))
    mean, covariance = generator.normal(size=2), factor @ factor.T + 0.01 * np.eye(2)
    root = sqrtm(target.covariance)
    cross = sqrtm(root @ covariance @ root)
    expected = np.sqrt(mean @ mean + np.trace(covariance + target.covariance - 2 * cross).real)
    assert bures_wasserstein(with_moments(mean, covariance), target) == pytest.approx(expected, rel=1e-6)


def test_bures_is_zero_for_the_right_moments_and_the_shift_for_shifted_ones() -> None:
    target = world("gaussian")
    assert bures_wasserstein(with_moments(target.mean, target.covariance), target) < 1e-6
    shifted = with_moments(np.array([3.0, -4.0]), target.covariance)
    assert bures_wasserstein(shifted, target) == pytest.approx(5, rel=1e-9)
    collapsed = np.zeros((10, 2))
    assert bures_wasserstein(collapsed, target) == pytest.approx(2)  # the root of the truth's variance, 4


def test_noise_floors_are_those_measured_before() -> None:
    target = world("gaussian")
    sets = np.stack([target.sample(2000, seed) for seed in range(60)])
    assert bures_wasserstein(sets, target).mean() == pytest.approx(0.058, rel=0.15)
    assert sliced_wasserstein(sets, target).mean() == pytest.approx(0.059, rel=0.15)


def test_sets_are_measured_one_by_one() -> None:
    target = world("ring")
    sets = np.stack([target.sample(300, seed) for seed in range(3)])
    for distance in (bures_wasserstein, sliced_wasserstein):
        np.testing.assert_allclose(distance(sets, target), [distance(one, target) for one in sets])


def test_sliced_distance_of_a_shift() -> None:
    target = world("gaussian")
    samples = target.sample(20_000, 1) + np.array([3.0, 4.0])
    assert sliced_wasserstein(samples, target) == pytest.approx(5 / np.sqrt(2), rel=0.01)


def test_only_the_sliced_distance_sees_what_the_moments_hide() -> None:
    ring = world("ring")
    target = with_moments(ring.mean, ring.covariance, count=4000)
    assert bures_wasserstein(target, ring) < 1e-6
    assert sliced_wasserstein(target, ring) > 2 * sliced_wasserstein(ring.sample(4000, 1), ring)


def test_a_diverged_model_is_infinitely_far() -> None:
    samples = np.zeros((2, 50, 2), np.float32)
    samples[1, 3, 0] = np.nan
    for distance in (bures_wasserstein, sliced_wasserstein):
        values = distance(samples, world("gaussian"))
        assert np.isfinite(values[0]) and values[1] == np.inf


def test_exact_transport() -> None:
    target = world("gaussian")
    samples = target.sample(200, 1)
    assert exact_wasserstein(samples[::-1], samples) == 0
    assert exact_wasserstein(samples + np.float32(0.5), samples) == pytest.approx(0.5 * np.sqrt(2), rel=1e-5)
    assert exact_transport_floor(target, 500, 1) == pytest.approx(0.346, rel=0.25)


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3), (0, 2)])
def test_what_are_no_points_in_the_plane_is_refused(shape: tuple[int, ...]) -> None:
    samples, target = np.zeros(shape), world("gaussian")
    for distance in (bures_wasserstein, sliced_wasserstein):
        with pytest.raises(UsageError, match=r"points in the plane are an array \(\.\.\., n, 2\)"):
            distance(samples, target)
    with pytest.raises(UsageError, match="points in the plane"):
        exact_wasserstein(samples, samples)
