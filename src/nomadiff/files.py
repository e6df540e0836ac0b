"""Files that are either whole or absent: written beside, flushed to disk, then renamed; only regular ones are read."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from nomadiff.errors import DataError, InUse, NomadiffError, UsageError
from nomadiff.plain import parse_json

__all__ = [
    "COMMAND_NAME",
    "LARGEST_READ",
    "atomic_folder",
    "atomic_path",
    "check_output",
    "normal_name",
    "one_line_errors",
    "open_regular",
    "paths_below",
    "printable",
    "read_json",
    "read_json_lines",
    "read_regular",
    "remove_leftovers",
    "remove_tree",
    "require_regular",
    "sha256_of",
    "sha256_of_file",
    "temporary_folder",
    "used_alone",
    "write_json",
    "write_text",
]

COMMAND_NAME = "command.toml"  # what the command line writes into a run's folder: the options that repeat it
LARGEST_READ = 512 << 20  # bytes that are read into memory at once: far more than an image, far less than memory
_NO_HOLES, _SPARSEST = 64 << 20, 16  # a file beyond so many bytes must hold more than one in so many
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that turn the direction of writing


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path of the same name; on success it is flushed to disk and renamed to ``path``.

    A reader therefore sees the old file or the whole new one, never half of it. If the block raises, the temporary
    file is deleted and ``path`` is untouched. Its mode is what the umask says, whatever the block's library gives it
    (safetensors makes files that only their owner reads).

    Raises:
        NomadiffError: the disk is full or the path cannot be written.
    """
    path = Path(path)
    with _temporary_beside(path) as temporary:
        mode = _mode_of_new_files(temporary)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """:func:`atomic_path` for a folder: made empty, filled by the block, flushed, renamed; with the same file modes.

    Raises:
        NomadiffError: the disk is full, the path cannot be written, or holds something other than an empty folder.
    """
    path = Path(path)
    with _temporary_beside(path) as temporary:
        temporary.mkdir()
        mode = _mode_of_new_files(temporary / "mode")
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) != mode:
                os.chmod(file, mode)
        os.sync()  # one flush for all files; a flush each would take minutes for 50,000
        if path.exists():
            path.rmdir()  # empty, or this raises
        temporary.rename(path)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own beside ``path``: libraries put temporary files there, too."""
    with one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as working:
            yield working / path.name


@contextmanager
def temporary_folder(place: str | Path | None = None) -> Iterator[Path]:
    """An empty folder in ``place`` (None takes the system's for such) that is gone after the block.

    Unlike ``tempfile.TemporaryDirectory`` it hears a signal to stop, and what killed processes left there goes too.
    """
    place = place or tempfile.gettempdir()
    remove_leftovers(place)
    working = Path(tempfile.mkdtemp(prefix=f".nomadiff-{os.getpid()}-{_HOST}-", suffix=".tmp", dir=place))
    _IN_USE.add(working.name)
    try:
        yield working
    finally:
        remove_tree(working, ignore_errors=True)
        _IN_USE.discard(working.name)


def paths_below(folder: str | Path, pattern: str) -> Iterator[Path]:
    """Files and folders below ``folder`` whose names match ``pattern``, in no order.

    Unlike ``Path.rglob`` (of Python 3.11) it passes over a folder that another process removes meanwhile.
    """
    for place, folders, names in os.walk(folder):
        yield from (Path(place, name) for name in fnmatch.filter([*folders, *names], pattern))


def remove_leftovers(folder: str | Path, *, below: bool = False) -> None:
    """Delete what killed processes left half written in ``folder``.

    What a living process writes there stays, and so does what one of another machine or container may be writing.

    Args:
        folder: where to look; it need not exist.
        below: look in its folders as well.
    """
    for working in paths_below(folder, ".nomadiff-*.tmp") if below else Path(folder).glob(".nomadiff-*.tmp"):
        match = _TEMPORARY_NAME.fullmatch(working.name)
        if match and match["host"] == _HOST and working.name not in _IN_USE and not _is_alive(int(match["pid"])):
            remove_tree(working, ignore_errors=True)


def remove_tree(path: str | Path, *, ignore_errors: bool = False) -> None:
    """``shutil.rmtree``, through which a signal to stop is always heard.

    Interrupted just after it has closed a folder, ``rmtree`` closes it again: "bad file descriptor" would take the
    interrupt's place, and work that was told to stop be called failed.
    """
    try:
        shutil.rmtree(path, ignore_errors=ignore_errors)
    except OSError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _host() -> str:
    """Where a process number means a process: the machine, and on Linux the name space of such numbers, which each
    container has of its own, maybe under the machine's name."""
    name = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:64]
    with suppress(OSError):
        name += "." + re.sub("[^0-9]", "", os.readlink("/proc/self/ns/pid"))
    return name


_HOST = _host()
_TEMPORARY_NAME = re.compile(r"\.nomadiff-(?P<pid>[0-9]+)-(?P<host>[^-]*)-[a-z0-9_]+\.tmp")
_IN_USE: set[str] = set()  # of this process: a leftover may carry our number, which another process had


@contextmanager
def used_alone(path: Path, lock: Path) -> Iterator[None]:
    """Let no other process use ``path`` while the block runs; one that was killed holds nothing.

    Args:
        path: what is used, for the message.
        lock: the file that is locked, in a folder that exists.

    Raises:
        InUse: another process uses it.
        NomadiffError: it cannot be locked.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    with one_line_errors(lock):
        try:
            held.acquire()
        except Timeout as error:
            raise InUse(f"{path} is in use by another process") from error
    try:
        yield
    finally:
        held.release()


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # what is ours is in _IN_USE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    return True


def _mode_of_new_files(path: Path) -> int:
    """The mode of a file that is made at ``path`` in the ordinary way: what umask and folder say."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        path.unlink()


def check_output(path: str | Path, kind: Literal["file", "folder", "new"]) -> None:
    """Find out before any work whether its result can be written; what killed processes left there is removed.

    Args:
        path: where the result is to go.
        kind: "file": a file, there already or not. "folder": a folder, there already or not. "new": either, the caller
            knows what may be there.

    Raises:
        UsageError: ``path`` is no name for a file, lies under a file, or is something else than ``kind``.
        NomadiffError: the disk is full, or the path cannot be written.
    """
    path = Path(path)
    if "\0" in str(path):
        raise UsageError(f"{printable(str(path))}: a path cannot contain a zero byte; choose another one")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:  # under a file, too long, in a folder that is closed to us, a link to itself
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another path") from error
    if mode is not None:
        if kind == "file" and stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a folder; give the name of a file")
        if kind == "folder" and not stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a file; choose another folder")
        if kind != "folder" and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(f"{path} is a device or the like; give the name of a file")
    inside = mode is not None and kind == "folder"
    place = path.absolute() if inside else path.absolute().parent
    while not place.exists():
        place = place.parent
    remove_leftovers(place, below=inside)
    with one_line_errors(path), tempfile.TemporaryFile(dir=place) as handle:
        handle.write(bytes(4096))
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def one_line_errors(path: str | Path) -> Iterator[None]:
    """Turn an error of writing ``path`` into one line that names the path and the cause.

    Raises:
        NomadiffError: instead of an ``OSError``, or of a library's error that wraps one.
    """
    try:
        yield
    except BaseException as error:
        # libraries wrap the operating system's error (safetensors does): look for the cause in the text as well
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "os error 28" in str(error):
            raise NomadiffError(f"{path}: the disk is full; free some space and run the same command again") from error
        if isinstance(error, OSError):
            raise NomadiffError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` in one atomic step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` in one atomic step. NaN and infinities are refused (not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, kind: type | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: ``dict`` or ``list``, if it must be one.

    Raises:
        DataError: the file is absent, unreadable, not JSON, or of another kind; the message names it.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_json(content, str(path), kind)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that holds one a line; other lines, such as one torn by a kill, are left out.

    Args:
        path: the file; none is an empty list.

    Raises:
        DataError: it cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = read_regular(path).decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    found = []
    for line in lines:
        with suppress(DataError):
            found.append(parse_json(line, "line", dict))
    return found


def require_regular(path: str | Path) -> int:
    """The size in bytes of a regular file. Opening a FIFO, a socket or a device would hang, or never end.

    A large file of holes is refused, too: it takes no room on disk, and all that it claims in memory.

    To be called before a library opens a path by itself; :func:`open_regular` is for everything else.

    Raises:
        OSError: it is no regular file (the message says so), or as the operating system says.
    """
    try:
        found = os.stat(path)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if found.st_size > _NO_HOLES and found.st_size > _SPARSEST * _held(path, found.st_size):
        raise OSError(errno.EFBIG, "a sparse file: almost nothing but holes")
    return found.st_size


def _held(path: str | Path, size: int) -> int:
    """Bytes of a file that are on disk; holes, which take no room, read as zeros. All of them where that is unknown."""
    if not hasattr(os, "SEEK_DATA"):  # Windows
        return size
    held = end = 0
    with open(path, "rb") as handle:
        try:
            while end < size:
                start = os.lseek(handle.fileno(), end, os.SEEK_DATA)
                end = os.lseek(handle.fileno(), start, os.SEEK_HOLE)
                held += end - start
        except OSError as error:
            return held if error.errno == errno.ENXIO else size  # no data any more; a file system that cannot tell
    return held


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
        OSError: as :func:`require_regular`.
    """
    require_regular(path)
    return open(path, "rb")


def read_regular(path: str | Path) -> bytes:
    """The bytes of a regular file of at most :data:`LARGEST_READ` bytes.

    Raises:
        OSError: it is larger (a sparse file may claim any size), or as :func:`require_regular`.
    """
    if (size := require_regular(path)) > LARGEST_READ:
        raise OSError(errno.EFBIG, f"larger than {LARGEST_READ >> 20} MiB")
    with open(path, "rb") as handle:
        return handle.read(size or 1 << 20)  # files in /proc claim no size, and some of them never end


def normal_name(name: str) -> str:
    """The one spelling of a file's name inside a set, wherever it is written: in a folder, a zip, a ``dataset.json``.

    Forward slashes, no ``./``, composed characters (macOS and Windows write ``é`` as one or as two), and control
    characters escaped, so that a name is one line wherever it is shown. A leading slash and ``..`` stay.
    """
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return printable(unicodedata.normalize("NFC", "/" * name.startswith("/") + "/".join(parts)))


def printable(text: str) -> str:
    r"""Text fit for a terminal, on one line: control characters, which could command it, are escaped (``\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        # Cs is what a name that is no UTF-8 is decoded to
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNING
        else character
        for character in text
    )


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        return sha256_of_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    told = [f"{file.relative_to(path).as_posix()} {sha256_of_file(file)}" for file in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
