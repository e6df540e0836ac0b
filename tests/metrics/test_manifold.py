"""Precision, recall, density and coverage against a plain numpy version, the prdc package, and sets known by hand."""

from __future__ import annotations

import contextlib
import io
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.errors import UsageError
from nomadiff.metrics import manifold, screening
from nomadiff.metrics.manifold import prdc, radii


def plain(real: np.ndarray, fake: np.ndarray, k: int, strict: bool) -> dict[str, float]:
    """The definitions, written with whole matrices in float64."""

    def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(x[:, None].astype(np.float64) - y[None].astype(np.float64)).sum(-1)

    def balls(x: np.ndarray) -> np.ndarray:
        return np.sort(squares(x, x), axis=1)[:, k]  # column 0 is the point itself

    inside = np.less if strict else np.less_equal
    between = squares(real, fake)
    in_real = inside(between, balls(real)[:, None])
    in_fake = inside(between, balls(fake)[None])
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum(0).mean() / k,
        "coverage": in_real.any(1).mean(),
    }


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(6, 40),
    m=st.integers(6, 40),
    d=st.integers(1, 6),
    k=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    grid=st.booleans(),
    convention=st.sampled_from(manifold.CONVENTIONS),
    block=st.sampled_from([7, 1024]),
    half=st.booleans(),
)
def test_equals_the_definition(
    n: int, m: int, d: int, k: int, seed: int, grid: bool, convention: str, block: int, half: bool
) -> None:
    """Also on a grid of integers, where distances tie with radii and points coincide; in blocks and both precisions."""
    random = np.random.default_rng(seed)
    draw = (
        (lambda *s: random.integers(0, 4, s).astype(np.float32))
        if grid
        else (lambda *s: random.standard_normal(s).astype(np.float32))
    )
    real, fake = draw(n, d), draw(m, d)
    if not (np.sort(np.square(real[:, None] - real[None]).sum(-1), axis=1)[:, k] > 0).any():
        return  # refused: tested below
    with mock.patch.multiple(screening, BLOCK=block, half_is_faster=lambda: half):
        found = prdc(real, fake, k, convention)
    assert found == pytest.approx(plain(real, fake, k, convention == "prdc"), abs=1e-12)


@pytest.mark.parametrize("half", [True, False])
def test_far_from_the_origin_and_with_an_outlier(half: bool, monkeypatch) -> None:
    """|x|^2 + |y|^2 - 2 x.y in float32 alone gets both of these wrong."""
    monkeypatch.setattr(screening, "half_is_faster", lambda: half)
    random = np.random.default_rng(0)
    real, fake = (1000 + random.standard_normal((200, 4)).astype(np.float32) for _ in range(2))
    assert prdc(real, fake) == pytest.approx(plain(real, fake, 5, True), abs=1e-12)
    real[0] = 1e5
    assert prdc(real, fake) == pytest.approx(plain(real, fake, 5, True), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_prdc_package(dtype: type) -> None:
    package = pytest.importorskip("prdc", reason="the prdc package is an oracle only, it is not installed")
    random = np.random.default_rng(1)
    real = random.standard_normal((900, 64)).astype(dtype)
    fake = (0.9 * random.standard_normal((1100, 64)) + 0.05).astype(dtype)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = package.compute_prdc(real, fake, nearest_k=5)
    assert prdc(real, fake) == pytest.approx(expected, abs=1e-12)


def test_dropped_modes_lose_coverage_and_recall_not_precision() -> None:
    random = np.random.default_rng(0)
    centres = 20 * np.eye(8)[:, :8]

    def draw(modes: int) -> np.ndarray:
        return (centres[random.integers(0, modes, 800)] + random.standard_normal((800, 8))).astype(np.float32)

    whole, dropped = prdc(draw(8), draw(8)), prdc(draw(8), draw(4))
    assert dropped["precision"] > whole["precision"] - 0.03
    assert dropped["coverage"] < whole["coverage"] / 1.7
    assert dropped["recall"] < whole["recall"] / 1.7


def test_the_conventions_differ_on_ties_only() -> None:
    line = np.arange(10, dtype=np.float32)[:, None]
    shifted = np.array([[10.0]] * 3, dtype=np.float32)  # exactly one radius from the end
    assert prdc(line, shifted, 1)["precision"] == 0
    assert prdc(line, shifted, 1, "kynkaanniemi")["precision"] == 1


def test_a_generator_that_repeats_itself_has_no_recall() -> None:
    real = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    result = prdc(real, np.repeat(real[:1], 50, axis=0))
    assert result["recall"] == 0 and result["precision"] == 1 and result["coverage"] < 0.3


def test_radii_given_from_before_change_nothing() -> None:
    random = np.random.default_rng(0)
    real, fake = random.standard_normal((60, 3)).astype(np.float32), random.standard_normal((60, 3)).astype(np.float32)
    assert prdc(real, fake, 3, real_radii=radii(real, 3)) == prdc(real, fake, 3)


def test_bad_input_is_told() -> None:
    good = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    spoiled = good.clone()
    spoiled[4, 1] = torch.inf
    for real, fake, options, words in [
        (good, good[:5], {}, "fake: precision and recall with k = 5 need more than 5 images, got 5"),
        (good[:3], good, {}, "real: precision and recall"),
        (good, spoiled, {}, "fake: row 4 is not finite"),
        (torch.ones(20, 3), good, {}, "constant features"),
        (good, good[:, :2], {}, "dimension 3 and 2"),
        (good, good, {"k": 0}, "k must be at least 1"),
        (good, good, {"convention": "naeem"}, "no convention 'naeem'"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            prdc(real, fake, **options)
        assert "\n" not in str(caught.value)
