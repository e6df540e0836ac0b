"""Bands of noise levels: training draws each as often, and a loss is told for each."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

__all__ = ["BANDS", "band_edges", "band_levels", "band_names"]

BANDS = 4
"""How many there are: as little noise as a quarter of all training images has, the second quarter, and so on."""


def _levels(shares: list[float], p_mean: float, p_std: float) -> list[float]:
    return [math.exp(p_mean + p_std * NormalDist().inv_cdf(share)) for share in shares]


def band_edges(p_mean: float, p_std: float) -> list[float]:
    """The noise levels between the bands: the quartiles of ``ln sigma ~ N(p_mean, p_std^2)``, ascending."""
    return _levels([k / BANDS for k in range(1, BANDS)], p_mean, p_std)


def band_levels(p_mean: float, p_std: float) -> list[tuple[float, float]]:
    """Two fixed noise levels in each band, at equal distances in probability."""
    levels = _levels([(k + 0.5) / (2 * BANDS) for k in range(2 * BANDS)], p_mean, p_std)
    return list(zip(levels[::2], levels[1::2]))


def band_names(p_mean: float, p_std: float) -> list[str]:
    """What a reader calls the bands."""
    edges = [f"{edge:.2g}" for edge in band_edges(p_mean, p_std)]
    between = [f"sigma {low} to {high}" for low, high in pairwise(edges)]
    return [f"sigma below {edges[0]}", *between, f"sigma above {edges[-1]}"]
