"""CMMD against its definition, and the estimate's freedom from a bias in number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.cmmd import SCALE, SIGMA, cmmd, cmmd_left_out
from nomadiff.metrics.intervals import random_groups
from nomadiff.metrics.reference import ReferenceSet


def embeddings(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 8))).float() + shift
    return x / x.norm(dim=1, keepdim=True)


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(a.double(), b.double()).square() / (2 * SIGMA**2))

    n, m = len(x), len(y)
    within = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(SCALE * (within - 2 * kernel(x, y).mean()))


@pytest.mark.parametrize("counts", [(30, 50), (3000, 60)])
def test_it_is_the_unbiased_discrepancy(counts: tuple[int, int]) -> None:
    x, y = embeddings(counts[0], 0), embeddings(counts[1], 1, 0.3)
    assert cmmd(x, y) == pytest.approx(by_definition(x, y), rel=1e-6, abs=1e-7)


def test_each_group_is_left_out() -> None:
    x, y = embeddings(50, 0), embeddings(60, 1, 0.2)
    member = random_groups(60)
    value, without = cmmd_left_out(x, y, member)
    assert value == pytest.approx(cmmd(x, y), rel=1e-9)
    for group in (0, 19):
        assert without[group] == pytest.approx(by_definition(x, y[member != group]), rel=1e-6, abs=1e-7)


def test_its_expectation_does_not_depend_on_the_number() -> None:
    few = [cmmd(embeddings(20, seed), embeddings(20, 500 + seed)) for seed in range(200)]
    assert abs(np.mean(few)) < 3 * np.std(few) / 200**0.5  # 0 for one distribution; the biased one is at 0.4
    with pytest.raises(UsageError, match="CMMD needs at least 2"):
        cmmd(embeddings(1, 0), embeddings(5, 1))


def test_it_is_refused_on_other_features() -> None:
    images = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8)
    reference = ReferenceSet(images, detector="pixels")
    for ask in (reference.evaluate, lambda images, extra: reference.floor(extra=extra)):
        with pytest.raises(UsageError, match="cmmd is a distance of CLIP features, not of pixels: use --detector clip"):
            ask(images, extra=("cmmd",))
