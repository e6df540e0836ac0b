"""Class labels from dataset.json and from folders; wrong ones are named."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.labels import Labels, checked_labels, labels_from_folders, labels_from_json, labels_json
from nomadiff.errors import DataError

NAMES = ["00000/a.png", "00000/b.png", "00001/c.png"]
ALL = [[name, index] for index, name in enumerate(NAMES)]


def parsed(value) -> Labels:
    return labels_from_json(json.dumps(value).encode(), NAMES, "set/dataset.json")


@given(st.permutations([0, 1, 2]), st.lists(st.integers(0, 999_999), min_size=3, max_size=3))
def test_labels_follow_the_order_of_the_files(order, labels):
    entries = [[NAMES[index], labels[index]] for index in order]
    assert parsed({"labels": entries}).numbers.tolist() == labels


def test_no_labels():
    for value in ({"labels": None}, {}):
        assert parsed(value).numbers is None and "there are none" in parsed(value).absent


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
        ({"labels": ALL, "class_names": "cat"}, "must be a list of names"),
        ({"labels": ALL, "class_names": ["cat", "", "fox"]}, "must be a list of names"),
        ({"labels": ALL, "class_names": ["cat", "dog"]}, "label 2 has no name: there are 2"),
        ({"labels": ALL, "class_names": ["cat", "dog", "cat"]}, "two classes are called 'cat'"),
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
    found = labels_from_folders(["n10/a.png", "n2/b.png", "n2/sub/c.png"])
    assert found.numbers.tolist() == [1, 0, 0] and found.names == ("n2", "n10") and found.absent is None


def test_folders_that_are_numbers_are_the_labels():
    found = labels_from_folders(["10/a.png", "2/b.png", "2/sub/c.png"])
    assert found.numbers.tolist() == [10, 2, 2] and found.names is None


@pytest.mark.parametrize("around", ["", "photos/", "a/b/", "train/", pytest.param("données 1/", id="accents")])
def test_folders_around_everything_are_no_classes(around):
    found = labels_from_folders([around + name for name in ("cat/0.png", "cat/1.png", "dog/0.png")])
    assert found.numbers.tolist() == [0, 0, 1] and found.names == ("cat", "dog")
    loose = labels_from_folders([around + name for name in ("0.png", "1.png")])
    assert loose.numbers is None and ("one folder" in loose.absent if around else "no folders" in loose.absent)


@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "Validation", "Testing"), ("dev", "val")])
def test_splits_above_the_classes_are_no_classes(splits):
    found = labels_from_folders([f"set/{split}/{name}/0.png" for split in splits for name in ("dog", "cat")])
    assert found.numbers.tolist() == [1, 0] * len(splits) and found.names == ("cat", "dog")
    flat = labels_from_folders([f"{split}/0.png" for split in splits])
    assert flat.numbers is None and "are no classes" in flat.absent
    assert labels_from_folders(["train/0.png", "cat/0.png"]).names == ("cat", "train")  # a class like any other


@pytest.mark.parametrize("stray", ["cover.png", "photos/cover.png", pytest.param("train/loose.png", id="in a split")])
def test_an_image_beside_the_classes_is_named(stray):
    around = stray.rpartition("/")[0] + "/" if "/" in stray else ""
    classes = [f"{around}{name}/{index}.png" for name in ("cat", "dog") for index in range(3)]
    others = ["test/cat/0.png", "test/dog/0.png"] if around == "train/" else []
    found = labels_from_folders([*classes, *others, stray])
    assert found.numbers is None and f"1 of {7 + len(others)} images, such as {stray}" in found.absent


def test_one_folder_may_be_a_class_of_another_set():
    found = labels_from_folders(["only/a.png", "only/b.png"])
    assert found.numbers is None and found.names == ("only",) and "one folder, only" in found.absent


def test_names_of_folders_have_one_form():
    found = labels_from_folders([unicodedata.normalize("NFD", "café/0.png"), "thé/0.png", "café/1.png"])
    assert found.numbers.tolist() == [0, 1, 0] and found.names == ("café", "thé")


def test_the_numbered_folders_of_edm_are_not_classes():
    for names in (["00000/img00000999.png", "00001/img00001000.png"], ["000000/000999.png", "001000/001000.png"]):
        for around in ("", "set/"):
            found = labels_from_folders([around + name for name in names])
            assert found.numbers is None and "a thousand" in found.absent
    assert labels_from_folders(["00000/img00000999.png", "00001/img00000007.png"]).numbers.tolist() == [0, 1]


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: f"./{name}",
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: name.replace("/", "\\"),
        lambda name: name.replace("/", "/./"),
    ],
)
def test_entries_are_found_however_they_are_spelt(spell):
    names = ["00000/é.png", "00001/b.png"]
    for files, entries in ((names, map(spell, names)), ([spell(name).replace("\\", "/") for name in names], names)):
        content = json.dumps({"labels": [[entry, index + 3] for index, entry in enumerate(entries)]})
        assert labels_from_json(content.encode("utf-8-sig"), files, "d").numbers.tolist() == [3, 4]


def test_classes_keep_their_names():
    found = parsed(labels_json(zip(NAMES, [2, 0, 2]), ("cat", "dog", unicodedata.normalize("NFD", "çedille"))))
    assert found.numbers.tolist() == [2, 0, 2] and found.names == ("cat", "dog", "çedille")
    found = parsed(labels_json(zip(NAMES, [1, 0, 1]), ("7", "5")))
    assert found.numbers.tolist() == [5, 7, 5] and found.names is None
    assert labels_json(None, ("cat",)) == {"labels": None}


def test_labels_of_arrays():
    assert checked_labels(np.array([1, 2], dtype=np.uint8), 2, "x").dtype == np.int64
    for wrong in (np.array([1, 2]), np.array([0.0, 1.0, 2.0]), np.array([[1, 2, 3]]), np.array([-1, 0, 0])):
        with pytest.raises(DataError, match="x: labels must"):
            checked_labels(wrong, 3, "x")
