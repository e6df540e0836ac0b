from __future__ import annotations

import numpy as np
import pytest

from nomadiff.errors import UsageError
from nomadiff.plane.worlds import WORLDS, world


@pytest.mark.parametrize("name", list(WORLDS))
def test_samples_have_the_exact_moments(name: str) -> None:
    target = world(name)
    samples = target.sample(200_000, seed=3).astype(np.float64)
    # standard errors are below 0.01 for all these moments
    np.testing.assert_allclose(samples.mean(axis=0), target.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), target.covariance, atol=0.03)


def test_the_gaussian_is_the_papers_and_the_ring_hides_in_its_moments() -> None:
    np.testing.assert_array_equal(world("gaussian").covariance, [[2, 1], [1, 2]])
    np.testing.assert_allclose(world("ring").covariance, 2 * np.eye(2), atol=1e-12)
    radii = np.linalg.norm(world("ring").sample(1000, 1), axis=1)
    assert radii.min() > 0.9  # a Gaussian of this covariance has 18 % of its mass within 0.9


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_point_depends_on_seed_and_index_only(name: str) -> None:
    target = world(name)
    np.testing.assert_array_equal(target.sample(100, 5)[:7], target.sample(7, 5))
    assert not np.array_equal(target.sample(7, 5), target.sample(7, 6))


@pytest.mark.parametrize("name", list(WORLDS))
def test_projected_quantiles_are_those_of_many_samples(name: str) -> None:
    target = world(name)
    direction = np.array([[0.6, 0.8]])
    expected = np.quantile(target.sample(400_000, 1) @ direction[0], (np.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(target.projected_quantiles(direction, 9)[0], expected, atol=0.02)


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no world called 'torus'; there are gaussian, ring"):
        world("torus")
