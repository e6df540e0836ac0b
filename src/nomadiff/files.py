"""Files that are either whole or absent: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, NomadiffError

__all__ = ["atomic_path", "read_json", "sha256_of_file", "told_in_one_line", "write_json", "write_text"]


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


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is absent, unreadable or not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from error


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
