"""Nearest neighbours in blocks against the whole matrix."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics import neighbours, screening
from nomadiff.metrics.arrays import metrics_of_arrays
from nomadiff.metrics.manifold import prdc
from nomadiff.metrics.neighbours import kth_distances, nearest_neighbours


def points(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("half", [True, False])
def test_equals_the_whole_matrix(monkeypatch, block: int, k: int, half: bool) -> None:
    monkeypatch.setattr(screening, "BLOCK", block)
    monkeypatch.setattr(screening, "half_is_faster", lambda: half)
    x, y = points(30, 5, 0), points(40, 5, 1)
    whole = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected, order = whole.sort(1)
    index, distance = nearest_neighbours(x, y, k)
    assert torch.equal(index, order[:, :k])
    torch.testing.assert_close(distance, expected[:, :k])
    torch.testing.assert_close(kth_distances(x, k), torch.cdist(x.double(), x.double()).sort(1)[0][:, k])


def test_a_point_is_not_its_own_neighbour() -> None:
    x = points(30, 5, 0)
    index, distance = nearest_neighbours(x, x, 2, itself=True)
    assert not (index == torch.arange(30)[:, None]).any()
    assert bool((distance > 0).all())
    twin = torch.cat([x, x[:1]])
    index, distance = nearest_neighbours(twin, twin, itself=True)
    assert index[0, 0] == 30 and index[30, 0] == 0 and distance[0, 0] == 0


def test_copies_are_found_at_distance_zero_far_from_the_origin() -> None:
    train = 1000 + points(500, 64, 0)
    index, distance = nearest_neighbours(train[100:110], train)
    assert index[:, 0].tolist() == list(range(100, 110))
    assert bool((distance == 0).all())


def test_images_are_scaled_to_the_unit_interval() -> None:
    black, white = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert float(nearest_neighbours(black, white)[1]) == pytest.approx(4.0)


def test_bad_input_is_told() -> None:
    x = points(10, 3, 0)
    for queries, among, k, words in [
        (x, x[:2], 3, "3 nearest neighbours need at least 3 points, got 2"),
        (x, x[:, :2], 1, "dimension 3 cannot be compared with points of 2"),
        (x[:0], x, 1, "at least one point"),
        (x, x / 0, 1, "row 0 is not finite"),
    ]:
        with pytest.raises(UsageError, match=words):
            nearest_neighbours(queries, among, k)


@pytest.mark.parametrize("scale", [1e16, 1e30])
def test_values_too_large_to_square_are_told(scale: float) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * scale
    for call in (lambda: nearest_neighbours(x, x), lambda: prdc(x, x), lambda: metrics_of_arrays(x.numpy(), x.numpy())):
        with pytest.raises(UsageError, match="too large to square"):
            call()
    small = nearest_neighbours(x / scale, x / scale, 2)[0]
    assert torch.equal(nearest_neighbours(x / scale * 1e12, x / scale * 1e12, 2)[0], small)


@pytest.mark.parametrize("k", [1, 3])
def test_images_are_searched_in_parts_with_the_same_result(monkeypatch, k: int) -> None:
    draw = torch.Generator().manual_seed(0)
    points = torch.randint(0, 4, (101, 1, 2, 2), generator=draw, dtype=torch.uint8)  # many at equal distances
    queries = torch.randint(0, 4, (30, 1, 2, 2), generator=draw, dtype=torch.uint8)
    some = torch.arange(1, 101, 2)
    whole, part = nearest_neighbours(queries, points, k), nearest_neighbours(queries, points[some], k)
    monkeypatch.setattr(neighbours, "AT_ONCE", 5 * 4 + 1)  # the last part is of one image
    index, distance = nearest_neighbours(queries, points, k)
    assert torch.equal(index, whole[0]) and torch.equal(distance, whole[1])
    index, distance = nearest_neighbours(queries, points, k, only=some)
    assert torch.equal(index, some[part[0]]) and torch.equal(distance, part[1])
    with pytest.raises(UsageError, match="3 nearest neighbours need at least 3 points, got 2"):
        nearest_neighbours(queries, points, 3, only=some[:2])
