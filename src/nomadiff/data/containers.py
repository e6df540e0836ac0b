"""Where image files lie: a folder or a zip, listed in one order and read one file at a time, never unpacked to disk."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from nomadiff.data.decoding import SUFFIXES
from nomadiff.errors import DataError

__all__ = ["FileTree", "FolderTree", "ZipTree", "image_names", "natural_key", "open_tree"]

_LARGEST_ENTRY = 512 << 20  # bytes one zip entry may claim: far more than an image, far less than memory


class FileTree(Protocol):
    """Files under one root, by relative name with forward slashes.

    Attributes:
        path: the folder or archive, for messages.
        names: every file, in natural order (``img2`` before ``img10``); hidden files are left out.
    """

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes: ...


class FolderTree:
    """The files of a folder and of all folders in it, links included.

    Args:
        path: the folder.

    Raises:
        DataError: a folder inside cannot be listed (it would be missing silently otherwise).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(self._walk(), key=natural_key)

    def _walk(self) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

        seen: set[str] = set()
        for folder, folders, files in os.walk(self.path, onerror=refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link back up would never end
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            yield from (prefix + name for name in files if not name.startswith("."))

    def read(self, name: str) -> bytes:
        """Bytes of one file.

        Raises:
            OSError: as the operating system says.
        """
        return (self.path / name).read_bytes()


class ZipTree:
    """The files of a zip archive, read in place.

    Args:
        path: the archive.

    Raises:
        DataError: not a zip, an entry's name leads out of the archive, or appears twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # damaged archives make zipfile raise more than BadZipFile
            raise DataError(f"{path}: not a zip archive, or damaged ({error})") from error
        try:
            self._entries = self._checked_entries()
        except DataError:
            self.close()
            raise
        hidden = re.compile(r"(^|/)(\.|__MACOSX/)")
        self.names = sorted((name for name in self._entries if not hidden.search(name)), key=natural_key)

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            name = entry.filename.replace("\\", "/")
            if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
                raise DataError(f"{self.path}: the entry {name!r} leads out of the archive; refused")
            if entry.is_dir():
                continue
            if name in entries:
                raise DataError(f"{self.path}: the entry {name!r} appears twice; refused")
            entries[name] = entry
        return entries

    def read(self, name: str) -> bytes:
        """Bytes of one entry, at most what its header claims; checksums are verified. Safe to call from threads.

        Raises:
            ValueError: the entry claims an absurd size; nothing was unpacked.
            Exception: the entry is damaged, encrypted or packed in an unknown way.
        """
        entry = self._entries[name]
        if entry.file_size > _LARGEST_ENTRY:
            raise ValueError(f"claims {entry.file_size >> 20:,} MiB unpacked, which looks like a decompression bomb")
        return self._archive.read(entry)

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Open a folder or an archive (``.zip``, or the zip that a ``.npz`` is) for the time of a block.

    Raises:
        DataError: it is neither, or cannot be read; the message names it.
    """
    if path.is_dir():
        yield FolderTree(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    elif path.suffix.lower() not in (".zip", ".npz"):
        raise DataError(f"{path}: expected a folder of images, a .zip, .npz or .npy file, or hf:<data set id>")
    else:
        archive = ZipTree(path)
        try:
            yield archive
        finally:
            archive.close()


def image_names(names: list[str]) -> list[str]:
    """The names that end like an image."""
    return [name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]


def natural_key(name: str) -> tuple:
    """Sort key that compares runs of digits as numbers; the name itself decides between ``1`` and ``01``."""
    parts = re.split(r"([0-9]+)", name)
    # a number is compared by its length, then its digits: int() refuses very long ones
    numbers = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2]]
    return (*(item for pair in zip(parts[::2], [*numbers, (0, "")]) for item in pair), name)
