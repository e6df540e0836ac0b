"""Folders and zips are listed in one order; archives that are hostile or torn are refused by name."""

from __future__ import annotations

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.containers import image_names, natural_key, open_tree
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
    monkeypatch.setattr("nomadiff.data.containers._LARGEST_ENTRY", 2_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
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
