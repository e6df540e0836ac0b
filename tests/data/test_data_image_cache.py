"""Sets too large for memory: decoded once into a file, mapped by all, and the same to the last bit."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.data import arrays, image_cache, images, mapped
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.latents import LatentSpace, write_latents
from nomadiff.data.mapped import chunks, content_hash, in_file, rows
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.source_union import union
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, NomadiffError, NomadiffWarning, UsageError
from nomadiff.methods.dm import DM

PIXELS = torch.randint(0, 256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Call sets large from 10,000 bytes on; gives the folder of the cache."""
    monkeypatch.setattr(image_cache, "LARGEST_HELD", 10_000)
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def write(path: Path, pixels: torch.Tensor = PIXELS, kind: str = "real", **options) -> Path:
    labels = torch.arange(len(pixels)) % 5
    write_images(path, iter([pixels]), len(pixels), labels=labels, manifest={"kind": kind}, **options)
    return path


def opened(path: Path, **options) -> ImageSource:
    return ImageSource.open(path, name="real", synthetic=False, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("*") if each.is_dir())


def decodes(monkeypatch) -> list[str]:
    """The names of files that are decoded from now on."""
    names: list[str] = []
    usual = images.decode_image
    monkeypatch.setattr(images, "decode_image", lambda data, size, name: names.append(name) or usual(data, size, name))
    return names


@pytest.mark.parametrize("ending", ["", ".zip"])
def test_a_large_set_is_decoded_once_and_is_the_same(tmp_path, small, monkeypatch, ending):
    path = write(tmp_path / f"set{ending}", class_names=["a", "b", "c", "d", "e"])
    monkeypatch.setattr(image_cache, "LARGEST_HELD", 1 << 30)
    held = opened(path)
    assert in_file(held.images) is None and not small.exists()
    monkeypatch.setattr(image_cache, "LARGEST_HELD", 10_000)
    made = opened(path)
    names = decodes(monkeypatch)
    again = opened(path)
    assert names == [] and len(entries(small)) == 1
    for found in (made, again):
        assert in_file(found.images) is not None
        assert torch.equal(found.images, held.images) and torch.equal(found.labels, held.labels)
        assert found.provenance == held.provenance and found.class_names == held.class_names
    mixes = [SourceMix(source) for source in (held, again)]
    for start in (0, 290, 12_345):
        one, other = (mix.batch(start, 37, 3) for mix in mixes)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert list(read_images(path).names) == list(read_images(path, part=images.Part(subset="first:2")).names) + list(
        read_images(path).names[2:]
    )


@pytest.mark.parametrize("change", ["replaced", "added", "removed", "touched"])
def test_a_changed_set_is_decoded_anew_and_the_old_entry_goes(tmp_path, small, change):
    path = write(tmp_path / "set")
    before = opened(path)
    kept = entries(small)
    files = sorted(path.rglob("*.png"))
    (path / "dataset.json").unlink()
    if change == "replaced":
        shutil.copy(files[1], files[0])
    elif change == "added":
        shutil.copy(files[1], files[0].with_name("more.png"))
    elif change == "removed":
        files[0].unlink()
    else:
        os.utime(files[0])
    after = opened(path)
    assert len(entries(small)) == 1 and entries(small) != kept
    assert len(after) == {"added": 301, "removed": 299}.get(change, 300)
    assert (after.content_hash == before.content_hash) == (change == "touched")
    assert torch.equal(before.images, PIXELS)  # who mapped it keeps it


def test_parts_and_sizes_have_entries_of_their_own(tmp_path, small, monkeypatch):
    path = write(tmp_path / "set.zip")
    whole = opened(path)
    names = decodes(monkeypatch)
    part = opened(path, classes="1-3", subset="first:100")
    assert torch.equal(part.images, PIXELS[(torch.arange(300) % 5 - 2).abs() < 2][:100]) and len(set(names)) == 100
    assert in_file(part.images) is not None and part.provenance["subset"] == ["classes:1-3", "first:100"]
    assert opened(path, resolution=4).images.shape == (300, 3, 4, 4)
    assert len(entries(small)) == 3 and torch.equal(whole.images, PIXELS)
    few = opened(path, subset="first:10")
    assert in_file(few.images) is None and len(entries(small)) == 3


def test_unreadable_files_are_told_of_whenever_the_set_is_opened(tmp_path, small):
    path = write(tmp_path / "set")
    files = sorted(path.rglob("*.png"))
    files[3].write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 300 images cannot be read: .*00000003.png"):
        opened(path)
    assert entries(small) == [] and not list(small.glob(".nomadiff*"))
    for _ in range(2):
        with pytest.warns(NomadiffWarning, match=r"1 of 300 images cannot be read and were left out:\n .*3.png \("):
            found = opened(path, skip_unreadable=True, subset="first:200")
        assert torch.equal(found.images, torch.cat([PIXELS[:3], PIXELS[4:201]])) and found.provenance["skipped"] == 1
        assert found.labels.tolist() == [index % 5 for index in range(201) if index != 3]


@pytest.mark.parametrize("ending", ["", ".zip"])
def test_files_that_can_be_read_by_now_are_no_longer_left_out(tmp_path, small, monkeypatch, ending):
    """The files are as they were: a plugin of Pillow was not installed, or a disk did not answer."""
    path = write(tmp_path / f"set{ending}")
    usual, broken = images.decode_image, {"3.png", "7.png"}

    def decode(data, size, name):
        if name[-5:] in broken:
            raise OSError("not now")
        return usual(data, size, name)

    monkeypatch.setattr(images, "decode_image", decode)
    for mended, left_out, tried in (
        *(("", 60, 300), ("", 60, 60), ("7.png", 30, 300)),
        *(("", 30, 30), ("3.png", 0, 300), ("", 0, 0)),
    ):
        broken.discard(mended)
        names = decodes(monkeypatch)
        found = read_images(path, skip_unreadable=True)
        assert len(found.skipped) == left_out and len(found.images) == 300 - left_out
        assert len(set(names)) == tried and len(entries(small)) == 1
    assert torch.equal(found.images, PIXELS)


def test_grey_images_before_a_coloured_one_begin_again(tmp_path, small):
    write(tmp_path / "set", PIXELS[:, :1])
    write(tmp_path / "colour", PIXELS[:1])
    shutil.move(next((tmp_path / "colour").rglob("*.png")), tmp_path / "set" / "00000" / "img00000299.png")
    found = opened(tmp_path / "set")
    assert torch.equal(found.images[:299], PIXELS[:299, :1].expand(-1, 3, -1, -1)) and len(entries(small)) == 1
    assert torch.equal(found.images[299], PIXELS[0])


def test_arrays_and_latents_are_held_likewise(tmp_path, small):
    np.save(tmp_path / "a.npy", PIXELS.permute(0, 2, 3, 1).contiguous().numpy())
    np.savez(tmp_path / "a.npz", images=PIXELS.numpy(), labels=np.arange(300))
    latents = torch.randn(200, 8, 4, 4)
    write_latents(tmp_path / "l.zip", iter([latents]), 200, space=LatentSpace())
    for _ in range(2):
        for name in ("a.npy", "a.npz"):
            found = opened(tmp_path / name, subset="range:10:290")
            assert torch.equal(found.images, PIXELS[10:290]) and in_file(found.images) is not None
        assert found.labels.tolist() == list(range(10, 290))
        found = opened(tmp_path / "l.zip")
        assert torch.equal(found.images, latents.half()) and found.latents == LatentSpace()
        with pytest.raises(UsageError, match="holds latents where images are needed"):
            read_images(tmp_path / "l.zip")


def test_a_synthetic_set_is_refused_from_the_cache_too(tmp_path, small):
    path = write(tmp_path / "set.zip", kind="synthetic")
    ImageSource.open(path, name="made", synthetic=True)
    assert len(entries(small)) == 1
    with pytest.raises(UsageError, match="its manifest says these images are synthetic"):
        opened(path)


def test_a_source_is_handed_over_by_its_path(tmp_path, small):
    source = opened(write(tmp_path / "set.zip"))
    packed = pickle.dumps(source)
    assert len(packed) < 10_000 < source.images.nbytes
    there = pickle.loads(packed)
    assert torch.equal(there.images, PIXELS) and in_file(there.images) == in_file(source.images)
    assert there.provenance == source.provenance and there.content_hash == source.content_hash
    part = pickle.loads(pickle.dumps(source.first(20)))
    assert torch.equal(part.images, PIXELS[:20]) and in_file(part.images) is None
    shutil.rmtree(entries(small)[0])
    with pytest.raises(DataError, match="the decoded images are gone or damaged .*; run the same command again"):
        pickle.loads(packed)


def test_a_large_part_of_a_mapped_set_is_mapped_too(tmp_path, small):
    source = opened(write(tmp_path / "set"))
    rest = np.arange(300)[np.arange(300) % 7 != 0]
    for _ in range(2):  # made, and found
        part = source.chosen(rest, "without every seventh")
        assert torch.equal(part.images, PIXELS[rest]) and in_file(part.images) is not None and len(entries(small)) == 2
    assert part.content_hash == content_hash(PIXELS[rest]) and part.labels.tolist() == (rest % 5).tolist()
    assert list(part.names) == [source.names[index] for index in rest]
    assert in_file(source.chosen(rest[:9], "few").images) is None
    assert len(pickle.dumps(source)) < 10_000 and pickle.loads(pickle.dumps(source)).names[7] == source.names[7]


@pytest.mark.parametrize("damage", ["about.json", "images.bin", "labels.npy"])
def test_a_damaged_entry_is_made_anew(tmp_path, small, damage):
    path = write(tmp_path / "set.zip")
    opened(path)
    (file,) = small.glob(f"*/{damage}")
    os.truncate(file, file.stat().st_size // 2)
    found = opened(path)
    assert torch.equal(found.images, PIXELS) and found.labels.tolist() == [index % 5 for index in range(300)]


SLOW = """
import sys, time
from nomadiff.data import image_cache, images
from nomadiff.data.image_source import ImageSource
usual = images.decode_image

def decode(*arguments):
    with open(sys.argv[2], "a") as handle:
        handle.write(".")
    time.sleep(0.002)
    return usual(*arguments)

images.decode_image, image_cache.LARGEST_HELD = decode, 10_000
ImageSource.open(sys.argv[1], name="real", synthetic=False)
"""


def test_one_process_decodes_and_a_killed_one_leaves_nothing_half_made(tmp_path, small):
    path, counter = write(tmp_path / "set.zip"), tmp_path / "decoded"
    counter.touch()

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLOW, str(path), str(counter)])

    killed = started()
    while counter.stat().st_size < 50 and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert [each for each in entries(small) if not each.name.startswith(".nomadiff")] == []
    counter.write_text("")
    both = [started(), started()]
    assert [process.wait(120) for process in both] == [0, 0]
    assert counter.stat().st_size == 301  # one of them, which looks at the first image twice; the other waits
    (entry,) = entries(small)
    assert sorted(each.name for each in entry.iterdir()) == ["about.json", "images.bin", "labels.npy", "names.txt"]
    assert torch.equal(opened(path).images, PIXELS)


def test_a_full_disk_and_a_closed_folder_are_one_line(tmp_path, small, monkeypatch):
    path = write(tmp_path / "set.zip")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(NomadiffError, match=r"the disk is full; .*NOMADIFF_CACHE=FOLDER moves"):
            opened(path)
    assert entries(small) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "file"))
    with pytest.raises(NomadiffError, match=r"cannot be written .*NOMADIFF_CACHE=FOLDER moves"):
        opened(path)


def test_rows_of_a_file_are_those_of_memory(tmp_path, small):
    stored = opened(write(tmp_path / "set.zip")).images
    for index in (torch.tensor([299, 0, 0, 17]), torch.tensor([], dtype=torch.int64), torch.arange(300)):
        assert torch.equal(rows(stored, index), PIXELS[index])
    assert torch.equal(rows(stored[40:], torch.tensor([3, 259])), PIXELS[[43, 299]])  # a part of it knows its place
    assert torch.equal(rows(stored[:, :1], torch.tensor([3])), PIXELS[[3], :1])
    for wrong in (300, -1):
        with pytest.raises(IndexError):
            rows(stored, torch.tensor([wrong]))
    assert torch.equal(torch.cat(list(chunks(stored, 77))), PIXELS) and in_file(stored[:299]) is None
    assert content_hash(stored) == content_hash(PIXELS) and content_hash(stored[:9]) == content_hash(PIXELS[:9])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_batches_make_nothing_resident(tmp_path, monkeypatch):
    shape = (2000, 3, 64, 64)
    mapped.made_in_file(tmp_path / "a.bin", shape, np.uint8)[:] = 7
    stored = mapped.InFile(tmp_path / "a.bin", shape, "uint8", "").open()

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        start = next(number for number, line in enumerate(lines) if line.endswith("a.bin"))
        return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))

    rows(stored, torch.arange(2000))
    assert resident() == 0
    assert sum(int(part.sum()) for part in chunks(stored, 100)) == 7 * stored.numel() and resident() == 0
    int(stored.sum())
    assert resident() > 10_000  # KB: what the measurement would see


def test_a_run_on_a_mapped_set_is_the_run_on_one_in_memory(tmp_path, small, monkeypatch):
    path = write(tmp_path / "set.zip", PIXELS[:, :1])
    for name, limit in (("held", 1 << 30), ("mapped", 10_000)):
        monkeypatch.setattr(image_cache, "LARGEST_HELD", limit)
        mix = SourceMix(opened(path))
        assert (in_file(mix.sources[0].images) is not None) == (name == "mapped")
        for budget in (64, 128):  # the second goes on where the first ended
            options = {"batch": 32, "warmup": 32, "snapshot_every": 64, "budget": budget}
            DM("digits", class_labels=True, **options).fit(mix, tmp_path / name, device="cpu")
    assert (tmp_path / "mapped" / "model.safetensors").read_bytes() == (
        tmp_path / "held" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["first", "last", "fortran"])
def test_a_large_npz_is_unpacked_to_a_nameless_file(tmp_path, small, monkeypatch, save, layout):
    array = PIXELS.numpy() if layout == "first" else np.ascontiguousarray(PIXELS.numpy().transpose(0, 2, 3, 1))
    array = np.asfortranarray(array) if layout == "fortran" else array
    save(tmp_path / "a.npz", images=array, labels=np.arange(300) % 7)
    found, labels = arrays.read_array(tmp_path / "a.npz")
    base = found
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap) and np.array_equal(found, PIXELS.numpy())
    assert labels.numbers is not None and not list(small.iterdir())
    source = opened(tmp_path / "a.npz")
    assert in_file(source.images) is not None and torch.equal(source.images, PIXELS)
    assert torch.equal(opened(tmp_path / "a.npz", classes="3").images, PIXELS[3::7])
    assert [each for each in small.iterdir() if each.is_file() and each.suffix != ".lock"] == []


def test_damage_in_a_large_npz_is_noticed_and_a_full_disk_told(tmp_path, small, monkeypatch):
    np.savez(tmp_path / "a.npz", images=PIXELS.numpy())
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz: not a numpy file, or damaged .*CRC"):
        opened(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=PIXELS.numpy())

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("nomadiff.data.arrays.shutil.copyfileobj", full)
    with pytest.raises(NomadiffError, match="the disk is full.*NOMADIFF_CACHE"):
        opened(tmp_path / "b.npz")


def test_a_union_of_large_sets_is_a_file_too(tmp_path, small):
    one, two = opened(write(tmp_path / "one")), opened(write(tmp_path / "two.zip", PIXELS.flip(0)))
    few = opened(write(tmp_path / "few", PIXELS[:10]))
    joined = union("real", [one, few, two])
    assert in_file(few.images) is None and in_file(joined.images) is not None
    assert torch.equal(joined.images, torch.cat([PIXELS, PIXELS[:10], PIXELS.flip(0)]))
    assert joined.labels.tolist() == [*one.labels.tolist(), *few.labels.tolist(), *two.labels.tolist()]
    before = entries(small)
    again = union("real", [one, few, two])  # another process of the machine finds it
    assert entries(small) == before and in_file(again.images) == in_file(joined.images)
    assert joined.content_hash == content_hash(torch.cat([PIXELS, PIXELS[:10], PIXELS.flip(0)]))
    assert in_file(union("real", [few, few]).images) is None
    latents = torch.randn(300, 8, 4, 4).half()
    sources = [
        ImageSource(name, images, None, {"kind": "real"}, LatentSpace())
        for name, images in (("a", latents), ("b", latents[:, :4]))
    ]
    both = union("real", sources).images
    assert in_file(both) is not None
    assert torch.equal(both[:300], latents) and torch.equal(both[300:, :4], latents[:, :4]) and not both[300:, 4:].any()
