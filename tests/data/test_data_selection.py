"""Subsets and class ranges: what they mean, and that they never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.selection import of_classes, parse_classes, parse_subset, shuffled
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
    assert parse_classes("0-7") == dict.fromkeys("01234567", False)
    assert parse_classes("0, 2,5 - 7") == dict.fromkeys("02", True) | dict.fromkeys("567", False)
    assert parse_classes("3-3, 3,2-4") == {"3": True, "2": False, "4": False}
    assert parse_classes("cat, sea lion,t-rex") == dict.fromkeys(("cat", "sea lion", "t-rex"), True)
    for text in ("", "7-5", "1,,2", "cat,"):
        with pytest.raises(UsageError, match="expected names, labels and ranges"):
            parse_classes(text)


@pytest.mark.parametrize(
    ("names", "text", "chosen"),
    [
        (("01", "02", "03"), "01", ["01"]),
        (("01", "02", "03"), "1", ["01"]),
        (("01", "02", "03"), "1-2", ["01", "02"]),
        (("01", "02", "03"), "03,0-1", ["01", "03"]),
        (("1", "2", "3", "unknown"), "1", ["1"]),
        (("1", "2", "3", "unknown"), "2-9,unknown", ["2", "3", "unknown"]),
        (("20240501", "20240502"), "20240501", ["20240501"]),
        (("cat", "dog"), "0", ["cat"]),
        (("cat", "dog"), "1-7", ["dog"]),
        (None, "01", ["1"]),
    ],
)
def test_a_class_is_known_by_its_name_and_by_a_number_only_without_one(names, text, chosen):
    labels = np.arange(4 if names is None else len(names))
    kept = of_classes(labels, names, parse_classes(text), "set")
    assert [str(index) if names is None else names[index] for index in kept] == chosen


@pytest.mark.parametrize("text", ["0", "3", "04"])
def test_the_number_of_a_label_is_no_class_where_names_are_numbers(text):
    with pytest.raises(UsageError, match=f"no class '{text}'; there are 01, 02, unknown"):
        of_classes(np.arange(3), ("01", "02", "unknown"), parse_classes(text), "set")


def test_range_leaves_its_end_out_and_meets_first():
    assert parse_subset("range:3:6")(10, None).tolist() == [3, 4, 5]
    assert parse_subset("range:0:4")(10, None).tolist() == parse_subset("first:4")(10, None).tolist()


def test_each_takes_the_first_of_every_class_in_order():
    labels = np.array([2, 0, 2, 1, 0, 1, 2, 0])
    assert parse_subset("each:2")(8, labels).tolist() == [0, 1, 2, 3, 4, 5]
    assert parse_subset("each:1")(8, labels).tolist() == [0, 1, 3]


@pytest.mark.parametrize("text", ["range:5:5", "range:6:5", "range:3", "each:0", "each:", "first:0", "last:3", ""])
def test_malformed_ranges_and_classes_are_refused(text):
    with pytest.raises(UsageError, match="expected first:N"):
        parse_subset(text)


def test_too_few_images_or_no_labels():
    with pytest.raises(UsageError, match="only 4 images"):
        parse_subset("range:2:5")(4, None)
    with pytest.raises(UsageError, match="a class has only 1"):
        parse_subset("each:2")(3, np.array([0, 0, 1]))
    with pytest.raises(UsageError, match="no class labels"):
        parse_subset("each:2")(3, None)
