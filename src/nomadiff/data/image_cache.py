"""Sets that are too large for memory, decoded once into a file that all processes of a machine map.

A set whose decoded images take more than :data:`LARGEST_HELD` bytes is decoded into ``images/`` of the cache
(:func:`~nomadiff.downloads.cache_folder`: ``NOMADIFF_CACHE`` moves it). Of several processes one decodes and the others
wait; a decoding that was killed begins again, and an entry is there whole or not at all. Files of a set that were
changed, added or replaced since are noticed by their sizes and times, and the entry is made anew. Entries may be
deleted at any time; nothing else deletes those of sets that are there no more.

Why a file of all images and not a buffer that shuffles shards as they come: the order of training stays a function of
(seed, position), so a run resumes anywhere, at the same place as with a set in memory, and with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch

from nomadiff.data.image_set import ImageSet
from nomadiff.data.latents import LatentSpace
from nomadiff.data.mapped import InFile, content_hash, made_in_file
from nomadiff.downloads import cache_folder
from nomadiff.errors import DataError, NomadiffError
from nomadiff.files import atomic_folder, one_line_errors, read_json, remove_tree, write_json

__all__ = ["LARGEST_HELD", "Room", "scratch_file"]

LARGEST_HELD = 1 << 30  # bytes of decoded images that every process holds in memory

_PACKED = 20  # how much smaller than its pixels a set of files may be
_FORMAT = 2  # of an entry, of what decoding makes of a file, and of what choosing a part means
_PIXELS, _ABOUT, _LABELS, _NAMES = "images.bin", "about.json", "labels.npy", "names.txt"


class Room:
    """Where the decoded images of one set are held: in memory, or in a file of the cache.

    Args:
        what: what is read and how, plain values: everything that the images depend on but the files' content.
        fingerprint: gives plain values that change when the files do.
        readable: tells whether one of these files, which could not be read, can be by now; None if all files could be.
    """

    def __init__(
        self,
        what: Mapping[str, Any],
        fingerprint: Callable[[], Any],
        readable: Callable[[Sequence[str]], bool] | None = None,
    ) -> None:
        self._where = str(what["where"])
        self._key = _short_hash([_FORMAT, dict(what)])
        self._fingerprint, self._readable = fingerprint, readable
        self._lock: Any = None

    @contextmanager
    def turn(self, on_disk: int) -> Iterator[None]:
        """Let one process at a time index a set that may be large, for its index takes memory: others find it made.

        Args:
            on_disk: bytes of its files; so few that it cannot be large, and nobody waits.
        """
        from filelock import FileLock

        folder = _folder()
        if on_disk > LARGEST_HELD // _PACKED:
            with suppress(OSError):  # a cache that cannot be written matters only if the set is large
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(folder / f"{self._key}.lock")
                self._lock.acquire()
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release(force=True)

    def of(self, fingerprint: Callable[[], Any]) -> Room:
        """The same for a set that is open already, whose files as they were then make the fingerprint."""
        other = copy.copy(self)
        other._fingerprint = fingerprint
        return other

    def found(self) -> ImageSet | None:
        """The set as it was decoded before; None if it was not, or more of it can be read by now."""
        if not self._entries():  # the usual case, in which no file is looked at
            return None
        try:
            entry = self._entry()
        except (OSError, DataError):
            return None  # reading will say what is wrong
        return self._current(entry) if entry.is_dir() else None

    def _current(self, entry: Path) -> ImageSet | None:
        found = _read(entry)
        stale = found is not None and found.skipped and self._readable is not None and self._readable(found.skipped)
        return None if stale else found

    def hold(self, shape: Sequence[int], dtype: Any, fill: Callable[[np.ndarray], ImageSet]) -> ImageSet:
        """Make the images.

        Args:
            shape: at most so many rows, as they are read.
            dtype: of numpy.
            fill: writes images into an array of that shape, and gives the set, whose images are the first rows of it.
                It may raise whatever it likes; then nothing is kept.

        Raises:
            NomadiffError: the disk is full, or the cache cannot be written.
        """
        from filelock import FileLock

        if int(np.prod(shape)) * np.dtype(dtype).itemsize <= LARGEST_HELD:
            self._remove_others(None)
            if self._lock is not None:
                self._lock.release(force=True)
            return fill(np.empty(shape, dtype))
        folder = _folder()
        lock = self._lock or FileLock(folder / f"{self._key}.lock")
        with _advice(folder):
            with one_line_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire()
            try:
                return self._decoded(shape, dtype, fill)
            finally:
                lock.release()

    def _decoded(self, shape: Sequence[int], dtype: Any, fill: Callable[[np.ndarray], ImageSet]) -> ImageSet:
        entry = self._entry()  # before anything is decoded: what changes later is noticed
        found = self._current(entry)  # another process may have made it meanwhile
        if found is None:
            remove_tree(entry, ignore_errors=True)  # damaged, or without files that can be read by now
            with atomic_folder(entry) as making:
                _write(making, fill(made_in_file(making / _PIXELS, shape, dtype)), self._where)
            self._remove_others(entry)
            found = _read(entry)
        if found is None:
            raise NomadiffError(f"{entry}: is gone or damaged already; run the same command again")
        return found

    def _entry(self) -> Path:
        return _folder() / f"{self._key}-{_short_hash(self._fingerprint())}"

    def _entries(self) -> list[Path]:
        return list(_folder().glob(f"{self._key}-*"))

    def _remove_others(self, entry: Path | None) -> None:
        """Delete the set as it was before its files changed. Who has mapped it keeps it."""
        for other in self._entries():
            if other != entry:
                remove_tree(other, ignore_errors=True)


@contextmanager
def scratch_file() -> Iterator[IO[bytes]]:
    """A file without a name, for what is too large for memory; its room is free again when nothing maps it any more.

    Raises:
        NomadiffError: the disk is full, or the cache cannot be written.
    """
    folder = _folder()
    with _advice(folder), one_line_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file


def _folder() -> Path:
    return cache_folder() / "images"


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Say how the cache is moved where it cannot be written."""
    try:
        yield
    except NomadiffError as error:
        if type(error) is not NomadiffError or not str(error).startswith(str(folder)):
            raise
        told = f"{error} (a set too large for memory is decoded into the cache, which NOMADIFF_CACHE=FOLDER moves)"
        raise NomadiffError(told) from error


def _write(folder: Path, found: ImageSet, where: str) -> None:
    images = found.images
    pixels = folder / _PIXELS
    with open(pixels, "r+b") as handle:
        handle.truncate(images.nbytes)
    about = {
        "set": where,
        "shape": list(images.shape),
        "dtype": images.numpy().dtype.name,
        "content_hash": content_hash(images),
        "note": found.note,
        "skipped": list(found.skipped),
        "latents": None if found.latents is None else found.latents.to_dict(),
        "class_names": None if found.class_names is None else list(found.class_names),
        "unlabelled": found.unlabelled,
        "manifest": found.manifest,
    }
    if found.labels is not None:
        np.save(folder / _LABELS, found.labels.numpy(), allow_pickle=False)
    if found.names is not None:
        (folder / _NAMES).write_text("\n".join(found.names), encoding="utf-8")
    write_json(folder / _ABOUT, about)


def _read(folder: Path) -> ImageSet | None:
    """The set of an entry; None where there is none that can be used."""
    try:
        about = read_json(folder / _ABOUT, dict)
        shape, latents, names = tuple(map(int, about["shape"])), about["latents"], about["class_names"]
        labels = folder / _LABELS
        return ImageSet(
            images=InFile(folder / _PIXELS, shape, str(about["dtype"]), str(about["content_hash"])).open(),
            labels=torch.from_numpy(np.load(labels, allow_pickle=False)) if labels.exists() else None,
            names=_Names(folder / _NAMES, shape[0]) if (folder / _NAMES).exists() else None,
            skipped=tuple(about["skipped"]),
            latents=None if latents is None else LatentSpace.from_dict(latents),
            class_names=None if names is None else tuple(names),
            unlabelled=about["unlabelled"],
            manifest=about["manifest"],
            note=str(about["note"]),
        )
    except (DataError, OSError, KeyError, TypeError, ValueError):
        return None


class _Names(Sequence[str]):
    """Names that are read when they are asked for: of a million files they take a hundred megabytes."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    @cached_property
    def _names(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").split("\n")

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_count": self._count}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._names[index]
