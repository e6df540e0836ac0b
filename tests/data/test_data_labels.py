"""Class labels from dataset.json and from folders; wrong ones are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.labels import checked_labels, labels_from_folders, labels_from_json
from nomadiff.errors import DataError

NAMES = ["00000/a.png", "00000/b.png", "00001/c.png"]


def parsed(value) -> np.ndarray | None:
    return labels_from_json(json.dumps(value).encode(), NAMES, "set/dataset.json")


@given(st.permutations([0, 1, 2]), st.lists(st.integers(0, 999_999), min_size=3, max_size=3))
def test_labels_follow_the_order_of_the_files(order, labels):
    entries = [[NAMES[index], labels[index]] for index in order]
    assert parsed({"labels": entries}).tolist() == labels


def test_no_labels():
    assert parsed({"labels": None}) is None
    assert parsed({}) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"labels": [[name, 1] for name in NAMES[:2]]}, "1 of 3 images have no label: 00001/c.png"),
        ({"labels": [["gone.png", 1], ["../up.png", 1]]}, "2 of 2 labels are of files that are not there: gone.png"),
        ({"labels": [[NAMES[0], 1.0]]}, "the label of 00000/a.png is 1.0, not an integer"),
        ({"labels": [[NAMES[0], True]]}, "is True, not an integer"),
        ({"labels": [[NAMES[0], -1]]}, "is -1, not an integer in 0..999,999"),
        ({"labels": [[NAMES[0], 10**40]]}, "not an integer in 0..999,999"),
        ({"labels": [[NAMES[0], [0, 1]]]}, r"is \[0, 1\], not an integer"),
        ({"labels": [[NAMES[0], 1], [NAMES[0], 1]]}, "00000/a.png is labelled twice"),
        ({"labels": [NAMES[0]]}, 'expected \\["file.png", 6\\], got'),
        ({"labels": {NAMES[0]: 1}}, "expected"),
        ([[NAMES[0], 1]], "expected"),
    ],
)
def test_wrong_labels_are_one_line(value, told):
    with pytest.raises(DataError, match=told) as caught:
        parsed(value)
    assert str(caught.value).startswith("set/dataset.json: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"labels": ' + b"9" * 5000 + b"}"])
def test_what_is_not_json_is_refused(content):
    with pytest.raises(DataError, match=r"dataset\.json"):
        labels_from_json(content, NAMES, "dataset.json")


def test_folders_are_classes_in_natural_order():
    assert labels_from_folders(["10/a.png", "2/b.png", "2/sub/c.png"]).tolist() == [1, 0, 0]
    assert labels_from_folders(["cat/a.png", "dog/a.png", "stray.png"]) is None
    assert labels_from_folders(["only/a.png", "only/b.png"]) is None


def test_the_numbered_folders_of_edm_are_not_classes():
    assert labels_from_folders(["00000/img00000999.png", "00001/img00001000.png"]) is None
    assert labels_from_folders(["000000/000999.png", "001000/001000.png"]) is None
    assert labels_from_folders(["00000/img00000999.png", "00001/img00000007.png"]).tolist() == [0, 1]


def test_labels_of_arrays():
    assert checked_labels(np.array([1, 2], dtype=np.uint8), 2, "x").dtype == np.int64
    for wrong in (np.array([1, 2]), np.array([0.0, 1.0, 2.0]), np.array([[1, 2, 3]]), np.array([-1, 0, 0])):
        with pytest.raises(DataError, match="x: labels must"):
            checked_labels(wrong, 3, "x")
