"""Sets are written whole or not at all, read back bit for bit, and never over something that exists."""

from __future__ import annotations

import errno
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.data.images import read_images
from nomadiff.data.manifest import read_manifest
from nomadiff.data.writing import write_images
from nomadiff.errors import NomadiffError, UsageError

KINDS = ["set", "set.zip", "set.npz"]


def some(count: int, channels: int = 3, size: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=12)
def test_what_was_written_is_read_back(tmp_path_factory, kind, batches, channels, labelled):
    path = tmp_path_factory.mktemp("out") / "deep" / kind
    images = some(sum(batches), channels)
    labels = torch.arange(len(images)) % 3 if labelled else None
    write_images(path, images.split(batches), len(images), labels=labels, manifest={"seed": 7, "method": "casd"})
    found = read_images(path)
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, labels) if labelled else found.labels is None
    assert read_manifest(path) == {"kind": "synthetic", "seed": 7, "method": "casd", "count": len(images)}
    assert [entry.name for entry in path.parent.iterdir()] == [kind]


def test_the_zip_is_edms_layout(tmp_path):
    images = some(1001, 1, 2)
    write_images(tmp_path / "a.zip", [images], 1001, labels=[5] * 1001, manifest={"kind": "real"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        entries = archive.infolist()
        labels = json.loads(archive.read("dataset.json"))["labels"]
    names = [entry.filename for entry in entries]
    assert names[0] == "00000/img00000000.png" and names[1000] == "00001/img00001000.png"
    assert names[-2:] == ["dataset.json", "manifest.json"]
    assert labels[1000] == ["00001/img00001000.png", 5]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.external_attr >> 16 for entry in entries} == {0o644}
    assert read_manifest(tmp_path / "a.zip") == {"kind": "real", "count": 1001}
    write_images(tmp_path / "b.zip", images.split(100), 1001, labels=[5] * 1001, manifest={"kind": "real"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_arrays_are_plain_numpy(tmp_path):
    images = some(3)
    write_images(tmp_path / "a.npz", [images], 3, labels=[2, 0, 1], manifest={})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["images"], images.permute(0, 2, 3, 1).numpy())
        assert arrays["labels"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_existing_is_overwritten(tmp_path, kind):
    path = tmp_path / kind
    if kind == "set":
        path.mkdir()
        write_images(path, [some(2)], 2, manifest={})  # an empty folder is free
    else:
        path.write_text("mine")
    before = sorted((entry, entry.stat().st_mtime_ns) for entry in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="refusing to overwrite"):
        write_images(path, pytest.fail, 2, manifest={})
    assert sorted((entry, entry.stat().st_mtime_ns) for entry in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batches", "count", "told"),
    [
        ([some(2)], 3, "expected 3 images, got 2"),
        ([some(2), some(2)], 3, "expected 3 images, got at least 4"),
        ([some(2), some(1, size=5)], 3, "one shape"),
        ([some(3).float()], 3, "must be uint8"),
        ([some(3)[:, 0]], 3, "must be uint8 .* of shape 3x4x4"),
        ([], 0, "at least one"),
    ],
)
def test_a_set_that_is_not_as_promised_leaves_nothing(tmp_path, kind, batches, count, told):
    with pytest.raises(UsageError, match=told):
        write_images(tmp_path / kind, batches, count, manifest={})
    assert list(tmp_path.iterdir()) == []


def test_labels_must_be_as_many(tmp_path):
    with pytest.raises(UsageError, match="2 labels for 3 images"):
        write_images(tmp_path / "a.zip", [some(3)], 3, labels=[1, 2], manifest={})


@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_or_a_full_disk_leaves_nothing(tmp_path, kind):
    def broken(error):
        yield some(2)
        raise error

    with pytest.raises(KeyboardInterrupt):
        write_images(tmp_path / kind, broken(KeyboardInterrupt()), 4, manifest={})
    with pytest.raises(NomadiffError, match="the disk is full"):
        write_images(tmp_path / kind, broken(OSError(errno.ENOSPC, "No space left on device")), 4, manifest={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(NomadiffError, match="cannot be written|cannot be read|Not a directory") as caught:
        write_images(tmp_path / "file" / kind, [some(2)], 2, manifest={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["set", "set.zip"])
def test_threads_write_the_same_files_in_the_same_order(tmp_path, kind):
    images, before = some(23, size=64), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            write_images(tmp_path / str(threads) / kind, images.split(5), 23, manifest={"seed": 1})
    finally:
        torch.set_num_threads(before)
    one, three = (tmp_path / str(threads) / kind for threads in (1, 3))
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file()) if one.is_dir() else ["."]
    assert [(one / name).read_bytes() for name in names] == [(three / name).read_bytes() for name in names]
    assert torch.equal(read_images(three).images, images)


def test_an_image_that_cannot_be_written_leaves_nothing_whatever_the_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(UsageError, match="expected 30 images, got 23"):
            write_images(tmp_path / "set", some(23, size=64).split(5), 30, manifest={})
    finally:
        torch.set_num_threads(before)
    assert list(tmp_path.iterdir()) == []
