"""Metrics by class on digits."""

from __future__ import annotations

import pytest
import torch

from nomadiff.data.digits import read_digits
from nomadiff.errors import UsageError
from nomadiff.metrics.groups import evaluate_groups, group_members
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.statistics_files import write_statistics


@pytest.fixture(scope="module")
def pool():
    return read_digits("digits:pool")


@pytest.fixture(scope="module")
def against() -> ReferenceSet:
    return ReferenceSet(read_digits("digits:reference").images)


def test_the_class_that_is_spoiled_is_the_one_that_shows(pool, against) -> None:
    spoiled = pool.images.clone()
    threes = pool.labels == 3
    spoiled[threes] = (spoiled[threes].float() * 0.6).to(torch.uint8)
    before, after = (evaluate_groups(against, images).rows for images in (pool.images, spoiled))
    assert [row["group"] for row in after] == list("0123456789")
    change = {row["group"]: row["fd_digits"] / then["fd_digits"] for row, then in zip(after, before)}
    assert max(change, key=change.get) == "3"
    assert sum(row["share"] for row in after) == pytest.approx(1)
    assert sum(row["reference_count"] for row in after) == 797


def test_groups_of_classes_and_classes_that_are_missing(pool, against) -> None:
    low = pool.images[pool.labels < 5]
    table = evaluate_groups(against, low, {"low": list("01234"), "nine": ["9"]})
    of_low, nine = table.rows
    assert of_low["share"] > 0.95 and of_low["reference_share"] == pytest.approx(0.5, abs=0.05)
    assert of_low["coverage"] > 0.9
    assert nine["count"] <= 5 and nine["fd_digits"] is None and nine["precision"] is None
    assert table.meta["reference_count"] == 797


def test_bad_groups_are_told(pool, against, tmp_path) -> None:
    with pytest.raises(UsageError, match="group 'x': no class '10'; there are 0, 1"):
        group_members(against.classifier.class_names, {"x": ["10"]})
    with pytest.raises(UsageError, match="group 'x' has no classes"):
        group_members(against.classifier.class_names, {"x": []})
    with pytest.raises(UsageError, match="need a classifier"):
        evaluate_groups(ReferenceSet(pool.images[:50], detector="pixels"), pool.images)
    write_statistics(tmp_path / "ref.npz", against.statistics)
    with pytest.raises(UsageError, match="holds neither"):
        evaluate_groups(ReferenceSet.load(tmp_path / "ref.npz", detector="digits"), pool.images)


def test_a_saved_reference_knows_its_classes(pool, against, tmp_path) -> None:
    against.save(tmp_path / "ref.npz")
    loaded = ReferenceSet.load(tmp_path / "ref.npz", detector="digits")
    assert evaluate_groups(loaded, pool.images).rows == evaluate_groups(against, pool.images).rows


def test_intervals_and_floors_of_groups(pool, against) -> None:
    rows = evaluate_groups(
        against, pool.images[:600], {"low": list("01234"), "nine": ["9"]}, interval=0.95, with_floor=True
    )
    for row in rows.rows:
        for name in ("share", "fd_digits", "precision", "coverage"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["share_floor"] == row["reference_share"] and row["precision_floor"] > 0.8
    few = evaluate_groups(against, pool.images[:30], {"low": list("01234")}, interval=0.95, with_floor=True).rows[0]
    assert few["precision"] > 0.5 and "precision_low" not in few  # too few for an interval, not for a value
