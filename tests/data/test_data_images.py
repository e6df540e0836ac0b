"""Reading whole sets: what is on disk arrives bit for bit, and what is wrong is one line, early."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.data import images
from nomadiff.data.images import read_images
from nomadiff.data.selection import Part
from nomadiff.errors import DataError, NomadiffWarning, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["folder", "zip"])
def store(request, tmp_path):
    """Write {name: bytes} as a folder or as a zip; gives the path."""

    def write(files: dict[str, bytes]) -> Path:
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            return tmp_path / "set.zip"
        for name, content in files.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(content)
        return tmp_path / "set"

    return write


def test_images_arrive_bit_for_bit_in_natural_order(store):
    files = {f"img{index}.png": png(PIXELS[index]) for index in reversed(range(12))}
    found = read_images(store(files))
    assert found.images.dtype == torch.uint8 and found.images.is_contiguous()
    np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), PIXELS)
    assert found.names == tuple(f"img{index}.png" for index in range(12))
    assert found.labels is None and found.skipped == ()


def test_large_files_are_read_in_threads_and_stay_in_order(store):
    pixels = np.random.default_rng(1).integers(0, 256, (150, 48, 48, 3), dtype=np.uint8)
    found = read_images(store({f"{index}.png": png(pixels[index]) for index in range(150)}))
    np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), pixels)


def test_labels_from_json_and_from_folders(store):
    files = {f"{index % 3}/{index}.png": png(PIXELS[index]) for index in range(6)}
    assert read_images(store(files)).labels.tolist() == [0, 0, 1, 1, 2, 2]
    files["dataset.json"] = json.dumps({"labels": [[name, 9 - int(name[2])] for name in files]}).encode()
    assert read_images(store(files)).labels.tolist() == [9, 6, 8, 5, 7, 4]
    files["dataset.json"] = b'{"labels": null}'
    assert read_images(store(files)).labels is None
    files["dataset.json"] = json.dumps({"labels": [["0/0.png", 1], ["0/gone.png", 1]]}).encode()
    with pytest.raises(DataError, match=r"dataset.json: 1 of 2 labels are of files that are not there: 0/gone.png"):
        read_images(store(files))


def test_grey_sets_have_one_channel_and_mixed_ones_three(store):
    grey = PIXELS[..., 0]
    found = read_images(store({f"{index:03}.png": png(grey[index % 12]) for index in range(70)}))
    assert found.images.shape == (70, 1, 6, 6)
    files = {f"{index:03}.png": png(grey[index % 12]) for index in range(70)}
    found = read_images(store({**files, "999.png": png(PIXELS[0])}))
    assert found.images.shape == (71, 3, 6, 6)
    np.testing.assert_array_equal(found.images[:70].numpy(), np.repeat(grey[np.arange(70) % 12][:, None], 3, axis=1))
    np.testing.assert_array_equal(found.images[70].numpy(), PIXELS[0].transpose(2, 0, 1))


def test_unreadable_files_are_counted_named_and_left_out_on_demand(store):
    files = {f"{index}.png": png(PIXELS[index]) for index in range(10)}
    files["0.png"], files["4.png"], files["7.png"] = b"", files["4.png"][:-40], b"no image"
    files["dataset.json"] = json.dumps({"labels": [[f"{index}.png", index] for index in range(10)]}).encode()
    path = store(files)
    with pytest.raises(DataError) as caught:
        read_images(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: 3 of 10 images cannot be read: 0.png (empty file), 4.png (")
    assert told.endswith("7.png (not an image, or damaged at its start); pass --skip-unreadable to leave them out")
    assert "\n" not in told
    with pytest.warns(NomadiffWarning) as told:
        found = read_images(path, skip_unreadable=True)
    lines = str(told[0].message).split("\n")
    assert lines[0] == f"{path}: 3 of 10 images cannot be read and were left out:"
    assert [line.split()[0] for line in lines[1:]] == ["0.png", "4.png", "7.png"] and "(empty file)" in lines[1]
    assert found.labels.tolist() == [1, 2, 3, 5, 6, 8, 9] and found.skipped == ("0.png", "4.png", "7.png")
    np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), PIXELS[found.labels.numpy()])
    assert found.names == tuple(f"{label}.png" for label in found.labels.tolist())


def test_only_the_chosen_files_are_decoded(store, monkeypatch):
    files = {f"{'ab'[index % 2]}/{index}.png": png(PIXELS[index]) for index in range(12)}
    files["b/1.png"], files["a/10.png"] = b"unreadable", png(PIXELS[10][:3])
    path = store(files)
    order = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    decoded = []
    usual = images.decode_image
    monkeypatch.setattr(images, "decode_image", lambda data, *rest: decoded.append(data) or usual(data, *rest))
    for part, chosen in (
        (Part(subset="first:4"), order[:4]),
        (Part("b", "range:1:4"), order[7:10]),
    ):
        decoded.clear()
        found = read_images(path, part=part)
        np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), PIXELS[chosen])
        assert set(decoded) == {files[name] for name in found.names} and len(found.names) == len(chosen)
        assert found.labels.tolist() == [index % 2 for index in chosen] and found.class_names == ("a", "b")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read: b/1.png"):
        read_images(path, part=Part(subset="each:2"))
    decoded.clear()
    with pytest.raises(UsageError, match="subset first:99: there are only 12 images"):
        read_images(path, part=Part(subset="first:99"))
    assert not decoded
    with pytest.warns(NomadiffWarning, match="1 of 12 images cannot be read"):  # of those that can be read
        found = read_images(path, resolution=6, skip_unreadable=True, part=Part("b", "first:2"))
    np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), PIXELS[[3, 5]])


def test_what_is_chosen_decides_the_colour(store):
    path = store({"0.png": png(PIXELS[0][..., 0]), "1.png": png(PIXELS[1])})
    assert read_images(path).images.shape[1] == 3
    assert read_images(path, part=Part(subset="first:1")).images.shape[1] == 1


def test_many_failures_are_summed_up_and_none_left_is_an_error(store):
    path = store({f"{index}.png": b"x" for index in range(9)})
    for skip in (False, True):
        with pytest.raises(DataError, match=r"9 of 9 images cannot be read: 0.png .* and 5 more"):
            read_images(path, skip_unreadable=skip)


def test_sizes_must_agree_unless_a_resolution_is_given(store):
    path = store({"a.png": png(PIXELS[0]), "b.png": png(np.repeat(PIXELS[1], 2, axis=1))})
    with pytest.raises(DataError, match="a.png is 6x6 pixels but b.png is 12x6; pass --resolution N"):
        read_images(path)
    found = read_images(path, resolution=6)
    np.testing.assert_array_equal(found.images[0].numpy(), PIXELS[0].transpose(2, 0, 1))
    assert found.images.shape == (2, 3, 6, 6)
    path = store({"a.png": png(PIXELS[0][:3]), "b.png": png(PIXELS[1][:3])})
    with pytest.raises(DataError, match="a.png is 6x3 pixels, not square; pass --resolution N"):
        read_images(path)
    with pytest.raises(UsageError, match="at least 1"):
        read_images(path, resolution=0)


def test_every_format_pillow_knows_is_read_and_other_files_are_told_of(store):
    files = {"0.png": png(PIXELS[0])}
    for number, (suffix, file_format) in enumerate(
        {"jfif": "JPEG", "jpe": "JPEG", "mpo": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "pcx": "PCX", "qoi": "QOI",
         "DIB": "DIB", "sgi": "SGI", "pnm": "PPM"}.items()
    ):  # fmt: skip
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[number]).save(buffer, file_format)
        files[f"{number + 1}.{suffix}"] = buffer.getvalue()
    assert len(read_images(store(files)).images) == 11
    others = {"notes.txt": b"x", "sub/a.zip": b"x", "b.eps": b"%!PS", "c.csv": b"", "d": b"", "Thumbs.db": b""}
    path = store({**files, **others, "dataset.json": b'{"labels": null}'})
    told = r"5 files are not images and were left out: b.eps, c.csv, d, notes.txt and 1 more"
    with pytest.warns(NomadiffWarning, match=told):
        assert len(read_images(path).images) == 11


def test_a_set_of_other_files_says_what_it_holds(store):
    with pytest.raises(DataError, match="holds no images but a.zip, notes.txt"):
        read_images(store({"notes.txt": b"x", "a.zip": b"x", "dataset.json": b"{}"}))


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "jxl"])
def test_images_that_need_a_plugin_are_unreadable_not_ignored(store, suffix):
    path = store({"0.png": png(PIXELS[0]), f"1.{suffix}": b"x"})
    with pytest.raises(
        DataError, match=rf"1 of 2 images cannot be read: 1.{suffix} \(.{suffix.lower()} needs pip install"
    ):
        read_images(path)
    with pytest.warns(NomadiffWarning, match=rf"left out:\n  1.{suffix} "):
        assert len(read_images(path, skip_unreadable=True).images) == 1


@pytest.mark.parametrize("kind", ["fifo", "device", "dangling", "sparse"])
def test_what_is_no_regular_file_is_unreadable(tmp_path, kind):
    (tmp_path / "0.png").write_bytes(png(PIXELS[0]))
    odd = tmp_path / "1.png"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "sparse":
        with open(odd, "wb") as handle:
            os.truncate(handle.fileno(), 1 << 40)
    else:
        odd.symlink_to({"device": "/dev/zero", "dangling": "/nowhere"}[kind])
    told = {"dangling": "No such file", "sparse": "a sparse file"}.get(kind, "not a regular file")
    with pytest.raises(DataError, match=rf"1 of 2 images cannot be read: 1.png \({told}"):
        read_images(tmp_path)
    odd.rename(tmp_path / "dataset.json")
    if kind != "sparse":
        with pytest.raises(DataError, match=rf"dataset.json: cannot be read \({told}"):
            read_images(tmp_path)


def test_transparency_and_bombs_name_the_file(store, monkeypatch):
    clear = np.dstack([PIXELS[1], np.full((6, 6), 9, np.uint8)])
    path = store({"a.png": png(PIXELS[0]), "b.png": png(clear)})
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read: b.png \(has transparent pixels"):
        read_images(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    with pytest.raises(
        DataError, match=r"a.png \(claims 6x6 pixels; such large images are read with --resolution N only\)"
    ):
        read_images(path)


def test_a_zip_entry_that_claims_too_much_is_never_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 2_000_000)
    monkeypatch.setattr("nomadiff.data.containers.LARGEST_READ", 1 << 20)
    with pytest.raises(DataError, match=r"a.png \(claims 1 MiB unpacked, which looks like a decompression bomb\)"):
        read_images(tmp_path / "a.zip")


def test_a_flipped_bit_in_a_zip_is_found_by_its_checksum(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.bmp", b"BM" + bytes(200))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[100] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a.bmp \(Bad CRC-32"):
        read_images(tmp_path / "a.zip")


def test_arrays_and_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(12))
    found = read_images(tmp_path / "a.npz")
    assert found.images.shape == (12, 3, 6, 6) and found.labels.tolist() == list(range(12)) and found.names is None
    assert read_images(str(tmp_path / "a.npz"), resolution=4).images.shape == (12, 3, 4, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        read_images(tmp_path / "empty")
    for name in ("gone", "gone.zip", "gone.npz", "gone.npy"):
        with pytest.raises(DataError, match=f"{name}: no such file"):
            read_images(tmp_path / name)


def test_real_cifar10():
    folder = os.environ.get("NOMADIFF_DATA")
    path = Path(folder or ".") / "cifar10-32x32-test.zip"
    if folder is None or not path.exists():
        pytest.skip("set NOMADIFF_DATA to a folder with cifar10-32x32-test.zip")
    found = read_images(path)
    assert found.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(found.labels).tolist() == [1000] * 10
    mean = found.images.double().mean((0, 2, 3)) / 255
    assert mean.numpy() == pytest.approx([0.4942, 0.4851, 0.4504], abs=2e-4)  # the published means of the test set
    with zipfile.ZipFile(path) as archive, archive.open(found.names[1234]) as handle:
        np.testing.assert_array_equal(found.images[1234].numpy().transpose(1, 2, 0), np.asarray(Image.open(handle)))
