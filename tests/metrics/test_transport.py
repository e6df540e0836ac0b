"""Wasserstein distances against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from nomadiff.errors import UsageError
from nomadiff.metrics.frechet import frechet_distance_from_features
from nomadiff.metrics.transport import bures_wasserstein, sliced_wasserstein


def test_bures_in_the_plane_has_a_closed_form() -> None:
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.2], [0.2, 3.0]])
    shared = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.sqrt(1 + 4 + 4 - 2 * shared)
    assert bures_wasserstein([0, 0], a, [1, 0], b) == pytest.approx(expected, rel=1e-12)
    # the same in a batch, against one fixed Gaussian
    batch = bures_wasserstein(np.zeros((3, 2)), np.stack([a, b, b]), np.array([1.0, 0.0]), b)
    assert batch == pytest.approx([expected, 1, 1], rel=1e-6)


def test_bures_of_moments_is_the_root_of_the_frechet_distance() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((50, 4)), 2 * random.standard_normal((60, 4)) + 1
    moments = [x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)]
    assert bures_wasserstein(*moments) ** 2 == pytest.approx(frechet_distance_from_features(x, y), rel=1e-10)


def test_bures_of_a_flat_gaussian() -> None:
    flat = np.diag([1.0, 0.0])
    assert bures_wasserstein([0, 0], flat, [0, 0], np.eye(2)) == pytest.approx(1, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 1000))
def test_sliced_on_a_line_is_exact_for_any_two_sizes(n: int, m: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.standard_normal((n, 1)), random.standard_normal((m, 1))
    # repeat each point until both sets have the same size: then sorting is the optimal transport
    a, b = np.sort(np.repeat(x[:, 0], m)), np.sort(np.repeat(y[:, 0], n))
    assert sliced_wasserstein(x, y, projections=3) == pytest.approx(np.sqrt(np.square(a - b).mean()), rel=1e-9)
    assert sliced_wasserstein(x, y, projections=3) >= wasserstein_distance(x[:, 0], y[:, 0]) - 1e-9  # W2 >= W1


def test_sliced_sees_a_shift_over_the_root_of_the_dimension() -> None:
    x = np.random.default_rng(0).standard_normal((200, 5))
    assert sliced_wasserstein(x, x + 2, projections=4000) == pytest.approx(2, rel=0.03)  # |(2,2,2,2,2)| / sqrt(5)
    assert sliced_wasserstein(x, x[::-1]) < 1e-12
    assert sliced_wasserstein(x, x + 2, seed=1) == sliced_wasserstein(x, x + 2, seed=1)


def test_sliced_sees_what_moments_do_not() -> None:
    random = np.random.default_rng(0)
    ring = np.stack([np.cos(t := random.uniform(0, 2 * np.pi, 4000)), np.sin(t)], 1) * np.sqrt(2)
    ball = random.standard_normal((4000, 2))
    same = sliced_wasserstein(ball, random.standard_normal((4000, 2)))
    assert sliced_wasserstein(ring, ball) > 4 * same


def test_bad_input_is_told() -> None:
    eye = np.eye(2)
    with pytest.raises(UsageError, match="do not belong together"):
        bures_wasserstein([0, 0], eye, [0, 0, 0], eye)
    with pytest.raises(UsageError, match="not finite"):
        bures_wasserstein([0, np.nan], eye, [0, 0], eye)
    with pytest.raises(UsageError, match=r"got \(3, 2\) and \(3, 3\)"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(UsageError, match="not finite"):
        sliced_wasserstein(np.full((3, 2), np.nan), np.zeros((3, 2)))


def test_a_mean_without_dimension_is_told() -> None:
    with pytest.raises(UsageError, match="do not belong together"):
        bures_wasserstein(np.array(0.0), np.eye(1), np.array(0.0), np.eye(1))
