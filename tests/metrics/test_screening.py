"""Bounds on distances: they hold, and no pair within reach is missed, whatever the numbers look like."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.metrics import screening
from nomadiff.metrics.screening import Screen, blocks_of, measure


def drawn(kind: str, count: int, dimension: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, dimension))
    if kind == "decaying":
        x /= np.sqrt(np.arange(1, dimension + 1))
    elif kind == "far":
        x += 300
    elif kind == "outlier":
        x[0] *= 1e4
    elif kind == "tiny":
        x *= 1e-12
    elif kind == "clusters":
        x = 50 * random.standard_normal((4, dimension))[random.integers(0, 4, count)] + 0.01 * x
    return torch.from_numpy(x).float()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["plain", "decaying", "far", "outlier", "tiny", "clusters"]),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    d=st.integers(1, 70),
    quantile=st.floats(0, 1),
    half=st.booleans(),
    itself=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bounds_hold_and_nothing_within_reach_is_missed(kind, n, m, d, quantile, half, itself, seed) -> None:
    x = drawn(kind, n, d, seed)
    y = x if itself else drawn(kind, m, d, seed + 1)
    true = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    reach, of_columns = true.quantile(quantile, 1), true.quantile(quantile, 0)  # some pairs lie exactly on it
    with mock.patch.object(screening, "half_is_faster", lambda: half):
        screen = Screen(x) if itself else Screen(x, y)
    for found, limit in zip(
        screen.within(slice(0, n), slice(0, len(y)), reach, of_columns), (reach[:, None], of_columns)
    ):
        there = torch.zeros_like(true, dtype=torch.bool)
        there[found.i, found.j] = True
        wanted = true <= limit
        if itself:
            wanted.fill_diagonal_(False)
        assert not (wanted & ~there).any()
        distance = true[found.i, found.j]
        assert bool((found.lower <= distance).all()) and bool((distance <= found.upper).all())


def test_the_rough_precision_screens_what_it_can_and_leaves_the_rest_to_float32(monkeypatch) -> None:
    monkeypatch.setattr(screening, "half_is_faster", lambda: True)
    x = drawn("decaying", 400, 512, 0)
    reach = torch.cdist(x.double(), x.double()).sort(1)[0][:, 5]
    screen = Screen(x)
    found, _ = screen.within(slice(0, 400), slice(0, 400), reach, None, most_open=0.01)
    assert screen.crowded == 0 and len(found.i) < 2 * 5 * 400
    screen = Screen(drawn("clusters", 400, 2, 0))  # neighbours in a cluster are nearer than bfloat16 can see
    for _ in range(5):
        screen.within(slice(0, 400), slice(0, 400), torch.full((400,), 0.01, dtype=torch.float64), None, most_open=0.01)
        screen.settle()
    assert screen.crowded == 4 and len(screen.left) == 1


def test_a_bound_on_the_nearest_is_one_and_not_far_off() -> None:
    x = drawn("decaying", 300, 64, 0)
    true = torch.cdist(x.double(), x.double()).sort(1)[0][:, 3]
    bound = Screen(x).reach_of_nearest(slice(0, 300), slice(0, 300), 3)
    assert bool((bound >= true).all()) and float((bound / true).median()) < 1.1
    assert bool(Screen(x[:3]).reach_of_nearest(slice(0, 3), slice(0, 3), 3).isinf().all())


def test_copies_are_at_distance_zero() -> None:
    x = drawn("far", 200, 16, 0)
    places = torch.arange(200)
    assert bool((measure(x, x.clone(), places, places) == 0).all())
    assert float(measure(x, x, places[:1], places[1:2])) == pytest.approx(float((x[0] - x[1]).norm()), rel=1e-5)


def test_blocks_cover_all_and_are_alike() -> None:
    for count in (1, 1024, 1025, 5000):
        blocks = blocks_of(count)
        assert [place for block in blocks for place in range(block.start, block.stop)] == list(range(count))
        sizes = {block.stop - block.start for block in blocks}
        assert max(sizes) <= 1024 and max(sizes) - min(sizes) <= 1
