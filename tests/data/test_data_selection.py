"""Subsets and class ranges: what they mean, and that they never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.selection import parse_classes, parse_subset, shuffled
from nomadiff.errors import UsageError


@given(st.integers(1, 200), st.integers(0, 2**63))
def test_a_shuffle_is_a_permutation_that_depends_on_every_key(count, seed):
    order = shuffled(count, seed, 1)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, shuffled(count, seed, 1))
    if count > 30:
        assert (order != shuffled(count, seed, 2)).any() and (order != shuffled(count, seed + 1, 1)).any()


def test_shuffles_are_uniform():
    """Chi-square of 6 orders of 3 items over 3,000 keys: 5 degrees of freedom, 99.9 % quantile 20.5."""
    seen = np.array([shuffled(3, key) @ (9, 3, 1) for key in range(3000)])
    counts = np.unique(seen, return_counts=True)[1]
    assert len(counts) == 6 and ((counts - 500) ** 2 / 500).sum() < 20.5


def test_shuffles_and_subsets_are_frozen():
    """A run is resumed, and a subset in a paper drawn again, by any later version."""
    assert shuffled(8, 1, 2, 3).tolist() == [2, 5, 6, 4, 3, 7, 1, 0]
    assert parse_subset("random:4:5")(100).tolist() == [0, 58, 69, 83]


@given(st.integers(1, 50), st.integers(0, 10**6), st.integers(50, 99))
def test_subsets(wanted, seed, count):
    assert parse_subset(f"first:{wanted}")(count).tolist() == list(range(wanted))
    chosen = parse_subset(f"random:{wanted}:{seed}")(count)
    assert len(set(chosen.tolist())) == wanted and (np.diff(chosen) > 0).all() and chosen.max() < count
    larger = parse_subset(f"random:{min(wanted + 5, count)}:{seed}")(count)
    assert set(chosen.tolist()) <= set(larger.tolist())
    assert parse_subset(f"random:{wanted}")(count).tolist() == parse_subset(f"random:{wanted}:0")(count).tolist()


@pytest.mark.parametrize(
    "text", ["", "first", "first:", "first:0", "first:-1", "first:1:2", "random:1:-1", "last:3", "1000"]
)
def test_malformed_subsets(text):
    with pytest.raises(UsageError, match="expected first:N, range:START:STOP, random:N, random:N:SEED or each:N"):
        parse_subset(text)


def test_a_subset_larger_than_the_set():
    for text in ("first:11", "random:11:0"):
        with pytest.raises(UsageError, match=f"subset {text}: there are only 10 images"):
            parse_subset(text)(10)


def test_classes():
    assert parse_classes("0-7") == set(range(8))
    assert parse_classes("0, 2,5 - 7") == {0, 2, 5, 6, 7}
    assert parse_classes("3-3") == {3}
    for text in ("", "a", "7-5", "1,,2", "-1", "1-", "0.5"):
        with pytest.raises(UsageError, match="expected labels and ranges"):
            parse_classes(text)
