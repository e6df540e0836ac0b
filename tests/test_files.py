"""A file is either whole or absent, whatever goes wrong while it is written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import (
    atomic_folder,
    atomic_path,
    check_output,
    normal_name,
    open_regular,
    paths_below,
    printable,
    read_json,
    read_regular,
    remove_leftovers,
    remove_tree,
    require_regular,
    sha256_of_file,
    temporary_folder,
    write_json,
    write_text,
)
from nomadiff.training.run_folder import save_tensors


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.name == path.name
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_the_block_raises_comes_out_and_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(type(error)) as caught, atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert caught.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_block_that_writes_nothing_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NomadiffError, match=r"file\.txt: cannot be written"), atomic_path(tmp_path / "file.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = f"""
        import os, signal
        from nomadiff.files import atomic_path
        with atomic_path({str(path)!r}) as temporary:
            temporary.write_text("half of the ne")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    torn = [name for name in os.listdir(tmp_path) if name != "file.txt"]
    assert len(torn) == 1 and torn[0].startswith(".") and torn[0].endswith(".tmp"), (
        "a torn file can be told by its name"
    )
    write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"], "the next write tidies up"


def killed_while_writing(path: Path) -> None:
    code = f"""
        import os, signal
        from nomadiff.files import atomic_path
        with atomic_path({str(path)!r}) as temporary:
            temporary.write_text("half of the ne")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)


def test_what_killed_processes_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("one.txt", "inner/two.txt"):
        killed_while_writing(tmp_path / name)
    elsewhere = tmp_path / ".nomadiff-1-another.machine-abcdefgh.tmp"
    elsewhere.mkdir()
    (tmp_path / ".mine.tmp").write_text("not ours to delete")
    code = f"""
        import sys
        from nomadiff.files import atomic_path
        with atomic_path({str(tmp_path / "slow.txt")!r}) as temporary:
            temporary.write_text("slow")
            print("writing", flush=True)
            sys.stdin.read()
    """
    slow = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert slow.stdout is not None and slow.stdout.readline() == "writing\n"
    with atomic_path(tmp_path / "mine.txt") as temporary:
        temporary.write_text("mine")
        remove_leftovers(tmp_path, below=True)
        assert temporary.exists()
    slow.communicate("")
    assert (tmp_path / "slow.txt").read_text() == "slow"
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", elsewhere.name, "inner", "mine.txt", "slow.txt"]
    assert os.listdir(tmp_path / "inner") == []


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="name spaces of process numbers")
def test_what_a_process_of_another_container_writes_is_not_removed(tmp_path: Path) -> None:
    """Containers may share a host's name and a disk, and cannot see each other's processes."""
    number = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    with atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("x")
        mine = temporary.parent.name
    _, _, host, rest = mine.rsplit("-", 3)
    assert host.endswith(f".{number}")
    dead, other = (f".nomadiff-{1 << 22}-{each}-{rest}" for each in (host, host.removesuffix(number) + "1"))
    for name in (dead, other):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [other, "file.txt"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_have_the_mode_that_the_umask_says_whatever_library_wrote_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        save_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(3)}, {})  # safetensors makes its files 0600
        with atomic_folder(tmp_path / "c") as temporary:
            (temporary / "d").write_text("x")
            (temporary / "e").mkdir()
            save_file({"x": torch.zeros(3)}, temporary / "e" / "f")  # as diffusers writes into a pipeline
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "b.safetensors", "c", "c/d", "c/e/f")}
    assert modes == {name: (0o777 if name == "c" else 0o666) & ~umask for name in modes}


@pytest.mark.parametrize("kind", ["file", "folder", "new"])
@pytest.mark.parametrize(
    ("name", "said"),
    [("file/inner", "Not a directory"), ("x" * 300, "too long"), ("a\0b", "zero byte"), ("loop", "symbolic link")],
)
def test_a_path_that_cannot_be_written_is_told_before_any_work(tmp_path: Path, name: str, said: str, kind: Any) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=said) as caught:
        check_output(tmp_path / name, kind)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
    check_output(tmp_path / "new" / "place", kind)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"], "nothing is made on the way"


def test_what_is_there_must_be_of_the_kind_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a file"):
        check_output(tmp_path / "file", "folder")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, "file")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(".", "file")
    for path in (tmp_path / "pipe", "/dev/null", "/dev/full"):
        for kind in ("file", "folder", "new"):
            with pytest.raises(UsageError):
                check_output(path, kind)  # type: ignore[arg-type]
    check_output(tmp_path / "file", "file")
    check_output(tmp_path, "folder")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "Read-only file system")])
def test_a_disk_that_takes_nothing_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def failing(**options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", failing)
    with pytest.raises(NomadiffError, match=said) as caught:
        check_output(tmp_path / "deep" / "er" / "out", "folder")
    assert str(tmp_path / "deep" / "er" / "out") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_found_at_the_flush_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NomadiffError, match=r"file\.txt: the disk is full; free some space") as caught:
        write_text(path, "new")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_full_disk_is_known_through_another_librarys_error(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    with pytest.raises(NomadiffError, match="the disk is full"), atomic_path(tmp_path / "model.safetensors"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_place_that_cannot_hold_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NomadiffError, match=r"file/inner\.txt: cannot be written"):
        write_text(tmp_path / "file" / "inner.txt", "x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(NomadiffError, match="folder: cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    write_text(tmp_path / "file.txt", "x")
    assert order[:2] == ["fsync", "replace"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"name": "Fréchet ± ≤", "list": [1, 2.5, None, True], "nested": {"a": {}}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "Fréchet" in (tmp_path / "value.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {"a": object()}])
def test_what_is_not_json_is_not_written(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "value.json", 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == 1
    assert os.listdir(tmp_path) == ["value.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"\xff\xfe{}", "cannot be read"),
        (b'{"a":\n 1,}', "not valid JSON (line 2"),
        (b"", "line 1"),
    ],
)
def test_an_unusable_json_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_hash_of_a_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def _irregular(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have a hundred characters only
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to({"device": "/dev/zero", "terminal": "/dev/ptmx"}[kind])


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "terminal"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "value.json"
    _irregular(kind, path)
    for read in (open_regular, read_regular, require_regular, sha256_of_file):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)
    with pytest.raises(DataError, match=r"value.json: cannot be read \(not a regular file\)"):
        read_json(path)


def test_folders_nul_and_sparse_files_are_no_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(OSError, match="null"):
        require_regular("a\0b")
    with open(tmp_path / "sparse", "wb") as handle:
        os.truncate(handle.fileno(), 1 << 40)
    with pytest.raises(OSError, match="nothing but holes"):
        read_regular(tmp_path / "sparse")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"abc")
    assert read_regular(tmp_path / "link") == b"abc" and require_regular(tmp_path / "link") == 3
    monkeypatch.setattr("nomadiff.files.LARGEST_READ", 2)
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "file")


def test_a_file_may_have_holes_but_not_be_one(tmp_path: Path) -> None:
    """Sparse copies of weights and images are as good as others; a kilobyte that claims gigabytes is not."""
    for name, held in (("few", 1 << 10), ("many", 8 << 20)):
        with open(tmp_path / name, "wb") as handle:
            handle.write(bytes([1]) * held)
            handle.seek(80 << 20)
            handle.write(b"end")
    assert require_regular(tmp_path / "many") == (80 << 20) + 3
    with pytest.raises(OSError, match="nothing but holes"):
        require_regular(tmp_path / "few")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("./cat/0.png", "cat/0.png"),
        (".\\cat\\0.png", "cat/0.png"),
        ("cat//./0.png", "cat/0.png"),
        ("e\u0301/o\u0308.png", "é/ö.png"),
        ("../a", "../a"),
        ("/a", "/a"),
        ("a\nnomadiff: ok\x1b[2J.png", r"a\nnomadiff: ok\x1b[2J.png"),
        ("\udcff.png", r"\udcff.png"),
        (".a", ".a"),
    ],
)
def test_a_name_has_one_spelling(written: str, name: str) -> None:
    assert normal_name(written) == name


def test_text_for_a_terminal_is_one_line_and_no_command() -> None:
    assert printable("Fréchet ± ≤ 猫 👩\u200d💻") == "Fréchet ± ≤ 猫 👩\u200d💻"
    assert printable("a\r\n\x1b]0;t\x07\x9b2J\u202egnp\u2028") == r"a\r\n\x1b]0;t\x07\x9b2J\u202egnp\u2028"


@pytest.mark.parametrize("temporary", [False, True])
def test_a_signal_while_a_folder_is_removed_is_heard(temporary, tmp_path, monkeypatch):
    """``shutil.rmtree`` closes a folder twice if it is interrupted just after closing it (Python 3.11)."""
    (tmp_path / "folder").mkdir()
    close = os.close

    def interrupted(descriptor: int) -> None:
        monkeypatch.setattr(os, "close", close)
        close(descriptor)
        raise KeyboardInterrupt(signal.SIGTERM)

    monkeypatch.setattr(os, "close", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        if temporary:
            monkeypatch.setattr(os, "close", close)
            with temporary_folder(tmp_path / "folder") as made:
                (made / "file").touch()
                monkeypatch.setattr(os, "close", interrupted)
        else:
            remove_tree(tmp_path / "folder", ignore_errors=True)
    assert caught.value.args == (signal.SIGTERM,)


def test_a_temporary_folder_is_gone_after_its_block_and_so_are_those_of_killed_processes(tmp_path: Path) -> None:
    code = (
        f"import os, nomadiff.files as f; made = f.temporary_folder({str(tmp_path)!r}); made.__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_folder(tmp_path) as made:
        assert list(tmp_path.iterdir()) == [made] and not list(made.iterdir())
        with temporary_folder(tmp_path) as other:
            assert made.exists() and other != made
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_removed_while_it_is_looked_through_is_passed_over(tmp_path):
    """``Path.rglob`` of Python 3.11 raises FileNotFoundError: seen with two processes in one run folder."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").touch()
    found = paths_below(tmp_path, "*.txt")
    first = next(found)
    remove_tree(tmp_path / ({"one", "two"} - {first.parent.name}).pop())
    assert list(found) == []
