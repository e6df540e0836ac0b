"""Distributions in the plane whose truth is known: what a loop in two dimensions is measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nomadiff.errors import UsageError

__all__ = ["WORLDS", "World", "world"]

_GRID = 20001


@dataclass(frozen=True, eq=False)
class World:
    """A mixture of Gaussians in the plane: one component is the Gaussian of the SIMS paper.

    Attributes:
        name: what tables call it.
        weights: float64 ``(K,)``, shares of the components, sum 1.
        means: float64 ``(K, 2)``.
        covariances: float64 ``(K, 2, 2)``.
    """

    name: str
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    _quantiles: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> np.ndarray:
        """Exact mean, float64 ``(2,)``."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """Exact covariance, float64 ``(2, 2)``."""
        centred = self.means - self.mean
        spread = self.covariances + centred[:, :, None] * centred[:, None, :]
        return np.einsum("k,kij->ij", self.weights, spread)

    def sample(self, count: int, seed: int) -> np.ndarray:
        """``count`` points, float32 ``(count, 2)``; point ``i`` is a function of (seed, i)."""
        normal = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((count, 2))
        uniform = np.random.Generator(np.random.Philox(key=[seed, 1])).random(count)
        edges = np.cumsum(self.weights)[:-1]
        component = np.searchsorted(edges, uniform, side="right")
        factors = np.linalg.cholesky(self.covariances)[component]
        return (self.means[component] + np.einsum("nij,nj->ni", factors, normal)).astype(np.float32)

    def projected_quantiles(self, directions: np.ndarray, count: int) -> np.ndarray:
        """Quantiles of the distribution's projections: the middles of ``count`` equally likely parts.

        Args:
            directions: float64 ``(D, 2)``, unit vectors.
            count: number of quantiles, at the probabilities ``(i + 0.5) / count``.

        Returns:
            float64 ``(D, count)``, ascending.
        """
        key = (hash(directions.tobytes()), count)
        if key not in self._quantiles:
            probabilities = (np.arange(count) + 0.5) / count
            self._quantiles[key] = np.stack([self._quantiles_along(line, probabilities) for line in directions])
        return self._quantiles[key]

    def _quantiles_along(self, direction: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr, ndtri

        means = self.means @ direction
        spreads = np.sqrt(np.einsum("i,kij,j->k", direction, self.covariances, direction))
        if len(means) == 1:
            return means[0] + spreads[0] * ndtri(probabilities)
        grid = np.linspace((means - 8 * spreads).min(), (means + 8 * spreads).max(), _GRID)
        below = (self.weights[:, None] * ndtr((grid - means[:, None]) / spreads[:, None])).sum(axis=0)
        return np.interp(probabilities, below, grid)


def _gaussian() -> World:
    """N(0, [[2, 1], [1, 2]]), the world of SIMS section 4.2.1."""
    return World("gaussian", np.ones(1), np.zeros((1, 2)), np.array([[[2.0, 1.0], [1.0, 2.0]]]))


def _ring() -> World:
    """Eight Gaussians on a circle, covariance exactly 2 I: its first two moments do not show its shape."""
    angles = 2 * math.pi * np.arange(8) / 8
    spread = 0.25
    radius = math.sqrt(2 * (2 - spread**2))
    means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return World("ring", np.full(8, 1 / 8), means, np.tile(spread**2 * np.eye(2), (8, 1, 1)))


WORLDS = {"gaussian": _gaussian, "ring": _ring}
"""Functions that make the built-in worlds, by name."""


def world(name: str) -> World:
    """A built-in world.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in WORLDS:
        raise UsageError(f"no world called {name!r}; there are {', '.join(WORLDS)}")
    return WORLDS[name]()
