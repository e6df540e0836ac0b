"""Images in .npy and .npz files: both layouts, and nothing that could run code."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from nomadiff.data.arrays import fit_array, read_array
from nomadiff.data.images import read_images
from nomadiff.errors import DataError

NCHW = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 6), dtype=np.uint8)
NHWC = np.ascontiguousarray(NCHW.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("stored", [NCHW, NHWC, np.asfortranarray(NHWC)])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_layouts_give_the_same_images(tmp_path, stored, channels):
    axis = stored.shape.index(3)
    part = stored.take(range(channels), axis=axis)
    np.save(tmp_path / "a.npy", part)
    np.savez_compressed(tmp_path / "a.npz", first=np.arange(4), images=part, labels=np.arange(4, dtype=np.int32))
    images, labels = read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(images, NCHW[:, :channels])
    assert labels.numbers is None
    held = read_images(tmp_path / "a.npy").images.numpy()
    assert held.flags.c_contiguous and held.flags.writeable
    images, labels = read_array(tmp_path / "a.npz")
    np.testing.assert_array_equal(images, NCHW[:, :channels])
    assert labels.numbers.tolist() == [0, 1, 2, 3] and labels.numbers.dtype == np.int64 and labels.names is None


def test_class_names_lie_beside_the_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=NHWC, labels=np.array([0, 1, 1, 0]), class_names=np.array(["cat", "dog"]))
    assert read_array(tmp_path / "a.npz")[1].names == ("cat", "dog")
    np.savez(tmp_path / "a.npz", images=NHWC, labels=np.array([0, 1, 2, 0]), class_names=np.array(["cat", "dog"]))
    with pytest.raises(DataError, match="label 2 has no name"):
        read_array(tmp_path / "a.npz")


def test_without_images_the_only_4d_array_counts(tmp_path):
    np.savez(tmp_path / "a.npz", about=np.zeros(3), arr_0=NHWC, arr_1=NCHW.astype(np.float32))
    assert len(read_array(tmp_path / "a.npz")[0]) == 4


def test_three_pixel_images_are_told_apart_by_their_square(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 3, 1), np.uint8))
    assert read_array(tmp_path / "a.npy")[0].shape == (5, 1, 3, 3)
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 3, 3), np.uint8))
    with pytest.raises(DataError, match="channels first or last"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (NCHW.astype(np.float32), "expected uint8 images .* got float32 of shape 4x3x6x6"),
        (NCHW[:, 0], "got uint8 of shape 4x6x6"),
        (np.zeros((4, 6, 6, 4), np.uint8), "no axis has 1 or 3 channels"),
        (np.zeros((0, 3, 6, 6), np.uint8), "holds no images"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, told):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=told):
        read_array(tmp_path / "a.npy")


class Attack:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(tmp_path):
    objects = np.empty(1, dtype=object)
    objects[0] = Attack()
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=NCHW, labels=objects, allow_pickle=True)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="holds Python objects"):
            read_array(tmp_path / name)
    for name in ("b.npy", "b.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Attack()))
        with pytest.raises(DataError, match=f"{name}: not a numpy file"):
            read_array(tmp_path / name)


def test_torn_and_absent_files(tmp_path):
    np.save(tmp_path / "a.npy", NCHW)
    np.savez(tmp_path / "a.npz", images=NCHW)
    for name in ("a.npy", "a.npz"):
        content = (tmp_path / name).read_bytes()
        for length in (0, 40, len(content) - 30):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(DataError, match=name):
                read_array(tmp_path / name)
    np.savez(tmp_path / "c.npz", about=np.zeros(3))
    with pytest.raises(DataError, match="holds no array 'images'"):
        read_array(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=NCHW, labels=np.zeros(3, int))
    with pytest.raises(DataError, match="labels must be 4 integers"):
        read_array(tmp_path / "d.npz")
    with pytest.raises(DataError, match="No such file"):
        read_array(tmp_path / "gone.npy")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 3, 64, 64), np.uint8))
    monkeypatch.setattr("nomadiff.data.arrays._BOMB", (1 << 20, 200))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match="decompression bomb"):
        read_array(tmp_path / "a.npz")


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_equals_that_of_files(channels):
    images = NCHW[:, :channels, :, :5]
    fitted = fit_array(images, 3, "set")
    for pixels, result in zip(images, fitted):
        picture = Image.fromarray(np.ascontiguousarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)))
        expected = np.asarray(picture.crop((0, 0, 5, 5)).resize((3, 3), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(result.squeeze() if channels == 1 else result.transpose(1, 2, 0), expected)
    assert fit_array(NCHW, 6, "set") is NCHW and fit_array(NCHW, None, "set") is NCHW
    with pytest.raises(DataError, match="set: images are 5x6 pixels, not square; pass --resolution N"):
        fit_array(images, None, "set")
