"""Folders and zips are listed in one order; archives that are hostile or torn are refused by name."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.containers import image_names, open_tree
from nomadiff.data.naming import natural_key
from nomadiff.errors import DataError


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_numbers_count_as_numbers():
    names = ["img10.png", "img2.png", "img02.png", "b/1.png", "img" + "9" * 5000 + ".png", "IMG1.png"]
    assert [name[:8] for name in sorted(names, key=natural_key)] == [
        "IMG1.png", "b/1.png", "img02.pn", "img2.png", "img10.pn", "img99999",
    ]  # fmt: skip


@given(st.lists(st.text(max_size=8), unique=True, max_size=8), st.randoms())
def test_the_order_is_total(names, random):
    shuffled = names[:]
    random.shuffle(shuffled)
    assert sorted(names, key=natural_key) == sorted(shuffled, key=natural_key)


def test_a_folder_and_its_zip_list_the_same(tmp_path):
    names = ["2.png", "10.PNG", "a/b/c.JPG", "a/notes.txt", ".hidden.png", ".git/x.png", "a/._c.png"]
    for name in names:
        target = tmp_path / "set" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(name)
    with (
        open_tree(tmp_path / "set") as folder,
        open_tree(zipped(tmp_path / "set.zip", [*names, "__MACOSX/2.png"])) as archive,
    ):
        assert folder.names == archive.names
        assert image_names(folder.names) == ["2.png", "10.PNG", "a/b/c.JPG"]
        for name in folder.names:
            assert folder.read(name) == archive.read(name) == name.encode()


def test_links_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_text("")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "up").symlink_to(tmp_path / "set")
    with open_tree(tmp_path / "set") as tree:
        assert tree.names == ["linked/1.png"]


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/etc/up.png", "C:/up.png", "..\\up.png", "\\up.png"])
def test_entries_that_lead_out_are_refused(tmp_path, name):
    path = zipped(tmp_path / "evil.zip", ["ok.png", name])
    with pytest.raises(DataError, match="evil.zip: the entry .* leads out of the archive"), open_tree(path):
        pass


def test_names_that_only_look_like_it_are_fine(tmp_path):
    with open_tree(zipped(tmp_path / "fine.zip", ["a..b/c...png"])) as tree:
        assert tree.names == ["a..b/c...png"]


def test_an_entry_twice_is_refused(tmp_path):
    path = tmp_path / "twice.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(path, ["a.png", "a.png"])
    with pytest.raises(DataError, match="twice.zip: the entry 'a.png' appears twice"), open_tree(path):
        pass


def test_a_claimed_size_is_refused_before_unpacking(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 3_000_000)
    monkeypatch.setattr("nomadiff.data.containers.LARGEST_READ", 2_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with open_tree(path) as tree, pytest.raises(ValueError, match="claims 2 MiB unpacked"):
        tree.read("a.png")


@given(st.data())
def test_damaged_archives_are_data_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(zipped(folder / "a.zip", ["a.png", "b.png"]).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.zip").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        with open_tree(folder / "a.zip") as tree:
            assert isinstance(tree.names, list)
    except DataError as error:
        assert "a.zip" in str(error)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="gone: no such file or folder"), open_tree(tmp_path / "gone"):
        pass
    (tmp_path / "a.zip").write_text("not a zip")
    with pytest.raises(DataError, match="a.zip: not a zip archive"), open_tree(tmp_path / "a.zip"):
        pass
    (tmp_path / "a.png").write_text("one image")
    with pytest.raises(DataError, match="a.png: expected a folder"), open_tree(tmp_path / "a.png"):
        pass


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["./cat/0.png", "./dog/0.png"], ["cat/0.png", "dog/0.png"]),
        (["./cat/0.png", "dog/1.png", "./"], ["cat/0.png", "dog/1.png"]),
        ([".\\cat\\0.png", "cat\\"], ["cat/0.png"]),
        (["cafe\u0301/0.png"], ["café/0.png"]),
        (["a:b.png", "c:d.png"], ["a:b.png", "c:d.png"]),
        (["./.hidden.png", "./__MACOSX/a.png", "a.png"], ["a.png"]),
        (["a\n\x1b[2J.png"], [r"a\n\x1b[2J.png"]),
    ],
)
def test_entries_are_called_by_their_plain_names(tmp_path, written, names):
    path = zipped(tmp_path / "a.zip", written)
    with open_tree(path) as tree:
        assert tree.names == names
        for name in names:
            assert tree.read(name).decode() in written


@pytest.mark.parametrize("other", ["./a/1.png", "a\\1.png", "a//1.png"])
def test_one_name_in_two_spellings_is_refused(tmp_path, other):
    path = zipped(tmp_path / "twice.zip", ["a/1.png", other])
    with pytest.raises(DataError, match="twice.zip: the entry 'a/1.png' appears twice"), open_tree(path):
        pass


def test_a_folder_knows_its_files_by_their_plain_names(tmp_path):
    for name in ("cafe\u0301.png", "a\nb.png", os.fsdecode(b"\xff.png")):
        (tmp_path / name).write_text(name, errors="surrogateescape")
    with open_tree(tmp_path) as tree:
        assert tree.names == ["a\\nb.png", "café.png", "\\udcff.png"] or sorted(tree.names) == sorted(
            ["a\\nb.png", "café.png", "\\udcff.png"]
        )
        assert tree.read("a\\nb.png") == b"a\nb.png" and tree.read("\\udcff.png") == b"\xff.png"
    (tmp_path / "café.png").write_text("")
    with pytest.raises(DataError, match="two files are called 'café.png'"), open_tree(tmp_path):
        pass


def test_links_that_lead_back_up_take_nothing_else_for_images(tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "0.png").write_text("")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_text("")
    (tmp_path / "set" / "up").symlink_to("..")
    (tmp_path / "set" / "root").symlink_to("/")
    with open_tree(tmp_path / "set") as tree:
        assert tree.names == ["1.png"]


PACKED = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 900])
def test_every_way_to_pack_is_read(tmp_path, packed, content):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as archive:
        archive.writestr("a.png", content)
    with open_tree(tmp_path / "a.zip") as tree:
        assert tree.read("a.png") == content


@pytest.mark.parametrize("packed", PACKED[1:])
@pytest.mark.parametrize("claim", [0, 1000, 100_000_001])
def test_an_entry_that_lies_about_its_size_unpacks_no_more_than_it_claims(tmp_path, packed, claim):
    true = 100_000_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as archive:
        archive.writestr("a.png", bytes(true))
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(struct.pack("<I", true), struct.pack("<I", claim)))
    tracemalloc.start()
    with open_tree(tmp_path / "a.zip") as tree, pytest.raises(Exception, match="CRC|size|Corrupt"):
        tree.read("a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if claim < true:
        assert peak < 20_000_000


@pytest.mark.parametrize("packed", PACKED)
def test_a_flipped_bit_is_found_however_it_is_packed(tmp_path, packed):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as archive:
        archive.writestr("a.png", bytes(range(256)) * 40)
        place = archive.getinfo("a.png").compress_size // 2 + 40
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[place] ^= 4
    (tmp_path / "a.zip").write_bytes(content)
    with open_tree(tmp_path / "a.zip") as tree, pytest.raises(Exception, match="CRC|size|Corrupt|Invalid|Error"):
        tree.read("a.png")


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_a_fifo_is_no_archive(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: cannot be read .not a regular file"), open_tree(tmp_path / name):
        pass
