"""Files that are either whole or absent: written beside, flushed to disk, then renamed; only regular ones are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, NomadiffError
from nomadiff.plain import parse_json

__all__ = [
    "LARGEST_READ",
    "atomic_path",
    "normal_name",
    "open_regular",
    "printable",
    "read_json",
    "read_regular",
    "require_regular",
    "sha256_of_file",
    "told_in_one_line",
    "write_json",
    "write_text",
]

LARGEST_READ = 512 << 20  # bytes that are read into memory at once: far more than an image, far less than memory
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that turn the direction of writing


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    A reader therefore sees the old file or the whole new one, never half of it. If the block raises, the temporary
    file is deleted and ``path`` is untouched.

    Raises:
        NomadiffError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with told_in_one_line(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # a place that cannot hold a file cannot be asked to delete one either
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def told_in_one_line(path: str | Path) -> Iterator[None]:
    """Say in one line why ``path`` could not be written, whatever the block was told by the operating system.

    Raises:
        NomadiffError: in place of an ``OSError``, and of what libraries make of one.
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


def require_regular(path: str | Path) -> int:
    """The size in bytes of a regular file. Opening a FIFO, a socket or a device would hang, or never end.

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
    return found.st_size


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
