"""Folders and archives of image files, listed in one order and read one file at a time, never unpacked to disk."""

from __future__ import annotations

import bz2
import copy
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from nomadiff.data.decoding import is_image_name, reason_of
from nomadiff.data.naming import LONGEST_NAME, is_hidden, leads_out, natural_key
from nomadiff.data.tar_shards import TarTree, shards_of, stamp
from nomadiff.errors import DataError
from nomadiff.files import LARGEST_READ, normal_name, open_regular, read_regular

__all__ = [
    "FileTree",
    "FolderTree",
    "ZipTree",
    "fingerprint",
    "image_names",
    "open_entry",
    "open_tree",
    "other_names",
    "read_entry",
    "size_of_archives",
]

_COMPANIONS = frozenset(
    ("dataset.json", "manifest.json", "latents.json", "metadata.csv", "metadata.jsonl", "thumbs.db", "desktop.ini")
)


class FileTree(Protocol):
    """Files under one root, by relative name with forward slashes.

    Attributes:
        path: the folder or archive, for messages.
        names: every file, in the spelling of :func:`~nomadiff.files.normal_name` and in natural order (``img2`` before
            ``img10``); hidden files are left out.
    """

    path: Path

    @property
    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def fingerprint(self) -> list[Any]:
        """Plain values that change when a file does, found without reading any."""
        ...


class FolderTree:
    """The files of a folder and of all folders in it, links included, except links that lead back up.

    Args:
        path: the folder.

    Raises:
        DataError: a folder inside cannot be listed (it would be missing silently otherwise), or two files have names
            that differ in spelling only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, str] = {}
        for written in self._walk():
            name = normal_name(written)
            if name in self._files:
                raise DataError(f"{path}: two files are called {name!r}; rename one")
            self._files[name] = written

    @cached_property
    def names(self) -> list[str]:
        """Every file, in natural order."""
        return sorted(self._files, key=natural_key)

    def fingerprint(self) -> list[Any]:
        """What changes when a file does."""
        found: list[Any] = []
        for written in sorted(self._files.values()):
            try:
                found.append([written, *stamp(self.path / written)])
            except OSError:  # a link to nothing
                found.append([written])
        return found

    def _walk(self) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

        above = [os.path.realpath(self.path)]
        while above[-1] != (parent := os.path.dirname(above[-1])):
            above.append(parent)
        seen = set(above[1:])  # a link back up would never end, or take the rest of the disk for images
        for folder, folders, files in os.walk(self.path, onerror=refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
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
            OSError: no regular file, an absurdly large one, or as the operating system says.
        """
        return read_regular(self.path / self._files[name])


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
            self._handle = open_regular(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            self._stamp = stamp(self._handle.fileno())
            self._archive = zipfile.ZipFile(self._handle)
            self._entries = self._checked_entries()
        except DataError:
            self._handle.close()
            raise
        except Exception as error:  # damaged archives make zipfile raise more than BadZipFile
            self._handle.close()
            raise DataError(f"{path}: not a zip archive, or damaged ({reason_of(error)})") from error
        self.names = sorted((name for name in self._entries if not is_hidden(name)), key=natural_key)

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            name = normal_name(entry.filename)
            if len(name) > LONGEST_NAME:
                raise DataError(f"{self.path}: an entry has a name of {len(name):,} characters; refused")
            if leads_out(name):
                raise DataError(f"{self.path}: the entry {name!r} leads out of the archive; refused")
            if entry.filename.endswith(("/", "\\")):
                continue
            if name in entries:
                raise DataError(f"{self.path}: the entry {name!r} appears twice; refused")
            entries[name] = entry
        return entries

    def read(self, name: str) -> bytes:
        """Bytes of one entry, see :func:`read_entry`. Safe to call from threads.

        Raises:
            Exception: as :func:`read_entry`.
        """
        return read_entry(self._archive, self._entries[name])

    def fingerprint(self) -> list[Any]:
        """What changes when the archive does."""
        return self._stamp

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()
        self._handle.close()


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Bytes of one entry of a zip, never more than it claims; its checksum is verified.

    Python's zipfile unpacks bzip2 and LZMA to the end before it looks at the claim: a few kilobytes can be terabytes.

    Raises:
        ValueError: the entry claims an absurd size (nothing was unpacked), or holds something else than it claims.
        Exception: the entry is damaged, encrypted or packed in an unknown way.
    """
    size = entry.file_size
    if size > LARGEST_READ:
        raise ValueError(f"claims {size >> 20:,} MiB unpacked, which looks like a decompression bomb")
    if entry.flag_bits & 1:
        raise ValueError("is encrypted; unpack it with its password")
    if entry.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = _unpacked(archive, entry)
    else:
        with archive.open(entry) as handle:
            content = handle.read(size + 1)  # read() without a number would unpack whatever there is
    if len(content) != size:
        raise ValueError("is damaged, or not of the size it claims")
    return content


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack bzip2 or LZMA to at most one byte more than the entry claims."""
    stored = copy.copy(entry)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, entry.compress_size
    del stored.CRC  # it is that of the unpacked bytes
    with archive.open(stored) as handle:
        packed = handle.read(entry.compress_size)
    if entry.compress_type == zipfile.ZIP_BZIP2:
        content = bz2.BZ2Decompressor().decompress(packed, entry.file_size + 1)
    else:
        # version (2 bytes), length of the properties (2), properties; the .lzma format wants properties, size, data
        end = 4 + int.from_bytes(packed[2:4], "little")
        marked = entry.flag_bits & 2  # whether a mark tells the end, or the size does
        claim = b"\xff" * 8 if marked else entry.file_size.to_bytes(8, "little")
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LARGEST_READ)
        content = unpacker.decompress(packed[4:end] + claim + packed[end:], entry.file_size + 1)
    if zlib.crc32(content) != entry.CRC:
        raise ValueError("Bad CRC-32")
    return content


def open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    """Open one entry of a zip to read on demand, bounded as :func:`read_entry` is.

    Raises:
        Exception: as :func:`read_entry`.
    """
    if entry.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return io.BytesIO(read_entry(archive, entry))
    return archive.open(entry)


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Open a folder, an archive or shards for the time of a block.

    Archives are ``.zip`` (also the one that a ``.npz`` is) and ``.tar``; of shards see
    :func:`~nomadiff.data.tar_shards.shards_of`.

    Raises:
        DataError: it is none of them, or cannot be read; the message names it.
    """
    if shards := shards_of(path, ".tar"):
        yield TarTree(path, shards)
    elif path.is_dir():
        yield FolderTree(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    elif path.suffix.lower() not in (".zip", ".npz"):
        raise DataError(
            f"{path}: expected a folder of images, a .zip, .tar, .parquet, .npz or .npy file, or hf:<data set id>"
        )
    else:
        archive = ZipTree(path)
        try:
            yield archive
        finally:
            archive.close()


def fingerprint(path: Path) -> list[Any]:
    """Plain values that change when a set of files does: its names, and sizes and times of its files; none is opened.

    Raises:
        OSError: a file is not there.
        DataError: a folder cannot be listed.
    """
    if shards := shards_of(path, ".tar", ".parquet"):
        return [[shard.name, *stamp(shard)] for shard in shards]
    return FolderTree(path).fingerprint() if path.is_dir() else stamp(path)


def size_of_archives(path: Path) -> int:
    """Bytes of an archive or of shards; 0 for a folder of files, or nothing."""
    try:
        return sum(stamp(each)[0] for each in shards_of(path, ".tar") or [path] if not each.is_dir())
    except OSError:
        return 0


def image_names(names: list[str]) -> list[str]:
    """The names that end like an image."""
    return [name for name in names if is_image_name(name)]


def other_names(names: list[str]) -> list[str]:
    """The names that are neither images nor what belongs beside them: labels, manifests, prompts, folder settings."""
    return [name for name in names if not is_image_name(name) and name.rpartition("/")[2].lower() not in _COMPANIONS]
