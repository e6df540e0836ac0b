"""Jackknife intervals: right for a mean, and they cover as often as they say."""

from __future__ import annotations

import numpy as np
import torch

from nomadiff.metrics.intervals import jackknife


def test_standard_error_of_a_mean() -> None:
    """For a mean with groups of one, the jackknife is the textbook standard error exactly."""
    from scipy.stats import t

    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = jackknife(lambda chosen: {"mean": float(x[chosen].mean())}, 40, groups=20)["mean"]
    groups = x[torch.from_numpy(np.random.default_rng(0).permutation(40))].reshape(2, 20).mean(0)
    error = float(groups.std()) / 20**0.5
    np.testing.assert_allclose([low, high], float(x.mean()) + np.array([-1, 1]) * t.ppf(0.975, 19) * error, rtol=1e-9)


def test_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        x = torch.from_numpy(random.exponential(size=200))
        low, high = jackknife(lambda chosen, x=x: {"sd": float(x[chosen].std())}, len(x), level=0.9)["sd"]
        hits += low <= 1 <= high
    assert 160 <= hits <= 195  # 180 expected; skewed data costs some
