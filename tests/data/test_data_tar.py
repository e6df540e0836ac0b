"""Tar archives and shards are read as zips and folders are; hostile or torn ones are refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nomadiff.data.containers import open_tree
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.lazy_images import open_lazily
from nomadiff.errors import DataError, NomadiffWarning, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def web_shards(folder: Path, *, count: int = 12, shards: int = 3, label: str = "cls", first: int = 0) -> Path:
    """WebDataset's layout: samples of an image and its label."""
    for shard in range(shards):
        files = {}
        for index in range(shard, count, shards):
            files[f"s{index}.png"] = png(PIXELS[index])
            text = str(index % 4) if label == "cls" else json.dumps({"label": index % 4, "caption": "x"})
            files[f"s{index}.{label}"] = text.encode()
            files[f"s{index}.txt"] = b"a caption"
        tar(folder / f"train-{first + shard:04d}.tar", files)
    return folder


@pytest.mark.parametrize("label", ["cls", "json"])
@pytest.mark.parametrize("spec", ["", "train-{0008..0010}.tar", "train-*.tar", "train-{0008,0009,0010}.tar"])
def test_shards_are_one_set_in_order_with_the_labels_beside_the_images(tmp_path, label, spec, recwarn):
    folder = web_shards(tmp_path / "shards", label=label, first=8)
    found = read_images(folder / spec if spec else folder)
    order = [index for shard in range(3) for index in range(shard, 12, 3)]
    np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), PIXELS[order])
    assert found.labels.tolist() == [index % 4 for index in order]
    assert found.names[0] == "train-0008/s0.png" and found.names[-1] == "train-0010/s11.png"
    assert not [str(each.message) for each in recwarn if each.category is NomadiffWarning]


def test_a_tar_of_a_folder_is_that_folder(tmp_path):
    files = {f"{('dog', 'cat')[index % 2]}/{index}.png": png(PIXELS[index]) for index in range(12)}
    files |= {".hidden/a.png": b"x", "notes.txt": b"x"}
    for name, content in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "./")  # folders too, and names that begin with ./
    with pytest.warns(NomadiffWarning, match="1 file is not an image and was left out: notes.txt"):
        folder, packed = (read_images(tmp_path / name) for name in ("set", "set.tar"))
    assert torch.equal(folder.images, packed.images) and torch.equal(folder.labels, packed.labels)
    assert folder.names == packed.names and packed.class_names == ("cat", "dog")
    with pytest.warns(NomadiffWarning), open_lazily(tmp_path / "set.tar") as images:
        assert torch.equal(images.batch(0, 12), packed.images) and torch.equal(images.labels, packed.labels)


def test_a_manifest_in_a_tar_marks_samples(tmp_path):
    tar(tmp_path / "s.tar", {"0.png": png(PIXELS[0]), "manifest.json": b'{"kind": "synthetic"}'})
    with pytest.raises(UsageError, match="its manifest says these images are synthetic"):
        ImageSource.open(tmp_path / "s.tar", name="real", synthetic=False)


def test_labels_may_be_names_and_must_be_there_for_all(tmp_path):
    files = {f"{index}.png": png(PIXELS[index]) for index in range(3)}
    named = {f"{index}.cls": b"dog\n" if index else b"cat\n" for index in range(3)}
    found = read_images(tar(tmp_path / "named.tar", {**files, **named}))
    assert found.labels.tolist() == [0, 1, 1] and found.class_names == ("cat", "dog")
    for wrong, told in (
        ({"1.cls": b"1", "2.cls": b"1"}, r"1 of 3 images have no label in a .cls file: 0.png"),
        ({f"{index}.cls": b"-1" for index in range(3)}, r"the label of 0.png is -1"),
        ({f"{index}.cls": b"\xff" for index in range(3)}, r"0.cls: cannot be read"),
        ({f"{index}.json": b"{" for index in range(3)}, r"0.json: cannot be read"),
        ({f"{index}.json": b'{"label": 1.5}' for index in range(3)}, r"neither an integer nor a name"),
    ):
        with pytest.raises(DataError, match=told):
            read_images(tar(tmp_path / "wrong.tar", {**files, **wrong}))
    captions = {f"{index}.json": b'{"caption": "x"}' for index in range(3)}
    assert read_images(tar(tmp_path / "captions.tar", {**files, **captions})).labels is None


def shards_with_labels(folder: Path, *about: dict | None) -> Path:
    """Shards of two images each, a.png and b.png, in a folder of their own, with these files as dataset.json."""
    for number, each in enumerate(about):
        files = {f"set/{name}.png": png(PIXELS[2 * number + place]) for place, name in enumerate("ab")}
        files |= {} if each is None else {"set/dataset.json": json.dumps(each).encode()}
        tar(folder / f"{number}.tar", files)
    return folder


def test_shards_have_their_labels_in_a_dataset_json_each(tmp_path):
    first, second = {"labels": [["a.png", 2], ["b.png", 0]]}, {"labels": [["b.png", 5], ["a.png", 1]]}
    found = read_images(shards_with_labels(tmp_path / "numbers", first, second))
    assert found.labels.tolist() == [2, 0, 1, 5] and found.class_names is None
    names = {"class_names": list("xyzuvw")}
    found = read_images(shards_with_labels(tmp_path / "names", {**first, **names}, {**second, **names}))
    assert found.labels.tolist() == [2, 0, 1, 5] and found.class_names == tuple("xyzuvw")
    found = read_images(shards_with_labels(tmp_path / "none", {"labels": None}, {"labels": None}))
    assert found.labels is None and "says that there are none" in found.unlabelled
    for number, (one, other, told) in enumerate(
        [
            (first, None, "some shards have labels in a dataset.json, and 1 has none"),
            (first, {"labels": None}, "some shards have labels in a dataset.json, and 1 has none"),
            (first, {**second, **names}, "the dataset.json of 1 names classes otherwise than that of 0"),
            (first, {"labels": [["a.png", 1]]}, r"1/set/dataset.json: 1 of 2 images have no label: b.png"),
        ]
    ):
        with pytest.raises(DataError, match=told):
            read_images(shards_with_labels(tmp_path / str(number), one, other))


def test_one_image_of_several_in_a_sample_is_chosen(tmp_path):
    pairs = {
        f"{index}.{kind}.png": png(PIXELS[index + 6 * (kind == "mask")])
        for index in range(6)
        for kind in ("rgb", "mask")
    }
    path = tar(tmp_path / "pairs.tar", pairs)
    with pytest.raises(UsageError, match=r"mask.png, rgb.png could all be the images"):
        read_images(path)
    np.testing.assert_array_equal(
        read_images(f"{path}#images=mask.png").images.numpy().transpose(0, 2, 3, 1), PIXELS[6:]
    )
    with pytest.raises(UsageError, match=r"no image ends in .depth.png"):
        read_images(f"{path}#images=depth.png")


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/etc/up.png", "C:/up.png", "..\\up.png", "a" * 2000])
def test_entries_that_lead_out_are_refused(tmp_path, name):
    path = tar(tmp_path / "evil.tar", {"ok.png": b"", name: b""}, format=tarfile.PAX_FORMAT)
    with pytest.raises(DataError, match=r"evil.tar: the entry .* leads out|evil.tar: an entry has a name of 2,000"):
        read_images(path)


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE", "GNUTYPE_SPARSE"])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    member = tarfile.TarInfo("link.png")
    member.type, member.linkname = getattr(tarfile, kind), "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(DataError, match=r"evil.tar: the entry 'link.png' is no plain file|evil.tar: not an uncomp"):
        read_images(tmp_path / "evil.tar")


def test_archives_that_are_torn_or_compressed_are_named(tmp_path):
    path = tar(tmp_path / "a.tar", {f"{index}.png": png(PIXELS[index]) for index in range(4)})
    whole = path.read_bytes()
    cut = whole.rindex(b"3.png")
    damaged = bytearray(whole)
    damaged[whole.index(b"2.png") + 150] ^= 0xFF  # its header's checksum: tarfile takes it for the end
    for content in (
        whole[: cut + 700],
        whole[:cut],
        whole[: len(whole) - 512],
        bytes(damaged),
        b"",
        b"hello",
        whole[512:],
    ):
        path.write_bytes(content)
        if content == whole[: len(whole) - 512]:
            assert len(read_images(path).images) == 4  # a shorter end is an end
            continue
        with pytest.raises(DataError, match=r"a.tar: not an uncompressed tar archive, or damaged"):
            read_images(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match="a.tar: not an uncompressed tar archive"):
        read_images(path)
    tar(path, {"a.png": b""})
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match="a.tar: the entry 'a.png' appears twice"):
        read_images(path)


@given(st.data())
def test_damaged_archives_are_data_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(tar(folder / "a.tar", {"a.png": b"a", "b.cls": b"3", "c" * 150 + ".png": b"x"}).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.tar").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        with open_tree(folder / "a.tar") as tree:
            for name in tree.names:
                tree.read(name)
    except DataError:
        pass


def test_patterns_that_mean_nothing_or_too_much(tmp_path):
    folder = web_shards(tmp_path / "shards")
    for spec, told in (
        ("train-{0000..0005}.tar", r"train-0003.tar is not there"),
        ("test-*.tar", "there is no such file"),
        ("train-{5..2}.tar", "write the smaller number first"),
        ("train-{0..99999999}.tar", "at most 1,000,000"),
        ("{0..9999}{0..9999}.tar", "means 100,000,000 files"),
    ):
        with pytest.raises((DataError, UsageError), match=told):
            read_images(folder / spec)
    odd = folder / "train-{0..1}.tar"
    (folder / "train-0000.tar").rename(odd)  # what exists under the whole text is meant
    assert len(read_images(odd).images) == 4
    (folder / "loop").symlink_to("loop")
    assert len(read_images(folder / "train-*.tar").images) == 12  # the link is not looked at
    with pytest.raises(DataError):
        read_images(folder)
    twice = tmp_path / "twice"
    for place in ("a", "b"):
        tar(twice / f"{place}.tar", {"0.png": png(PIXELS[0])})
    (twice / "b.TAR").write_bytes((twice / "b.tar").read_bytes())
    assert len(read_images(twice).images) == 3
