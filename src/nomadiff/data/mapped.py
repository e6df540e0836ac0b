"""Tensors that lie in a file: mapped into memory, read where they are asked for, and never resident as a whole.

Such a tensor is used like any other. Its pages belong to the system's cache of files, which all processes of a machine
share. What a process has read stays resident in it until it is let go; :func:`rows` and :func:`chunks` do that, so
whoever goes through a whole set uses them. Of any other tensor they give the same.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.devices import sent

__all__ = ["InFile", "chunks", "content_hash", "in_file", "let_go", "made_in_file", "rows"]

_AT_ONCE = 64 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class InFile:
    """A tensor that is a file, byte by byte.

    Attributes:
        path: the file.
        shape: of the tensor.
        dtype: numpy's name for it.
        content_hash: of the tensor, as :func:`content_hash` gives it.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    content_hash: str

    def open(self) -> Tensor:
        """Map the file. The tensor cannot be written to: the attempt ends the process.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it has another size.
        """
        array, found = _mapped(self.path, self.shape, self.dtype, os.O_RDONLY)
        found.record = self
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that the array must not be written to
            return torch.from_numpy(array)


class _Map(mmap.mmap):
    """A mapped file with its descriptor; numpy and torch keep it alive as long as an array of it is."""

    descriptor: int
    record: InFile | None = None


_maps: weakref.WeakValueDictionary[int, _Map] = weakref.WeakValueDictionary()  # by the address where each begins


def made_in_file(path: Path, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """A new file as an array to fill; its room on the disk is taken at once.

    Raises:
        OSError: the disk is full, or the file cannot be made.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "wb") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)  # or a full disk would kill the process that writes a page
        else:
            handle.truncate(size)
    return _mapped(path, shape, dtype, os.O_RDWR)[0]


def _mapped(path: Path, shape: Sequence[int], dtype: Any, mode: int) -> tuple[np.ndarray, _Map]:
    descriptor = os.open(path, mode)
    try:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if os.fstat(descriptor).st_size != size:
            raise ValueError(f"{path}: not of {size:,} bytes")
        found = _Map(descriptor, size, access=mmap.ACCESS_WRITE if mode == os.O_RDWR else mmap.ACCESS_READ)
    except BaseException:
        os.close(descriptor)
        raise
    found.descriptor = descriptor
    weakref.finalize(found, os.close, descriptor)
    array = np.frombuffer(found, dtype).reshape(shape)
    _maps[array.ctypes.data] = found
    return array, found


def _map_of(images: Tensor | np.ndarray) -> _Map | None:
    if isinstance(images, Tensor):
        return _maps.get(images.untyped_storage().data_ptr()) if images.device.type == "cpu" else None
    return _maps.get(images.ctypes.data)


def in_file(images: Tensor) -> InFile | None:
    """The file that is mapped as this whole tensor; None of a part of it, or of a tensor in memory."""
    found = _map_of(images)
    whole = found is not None and found.record is not None and tuple(images.shape) == found.record.shape
    return found.record if found is not None and whole and images.is_contiguous() else None


def content_hash(images: Tensor) -> str:
    """SHA-256 of the shape and the bytes of a tensor: 64 hexadecimal digits. Of a mapped one it is known."""
    if (known := in_file(images)) is not None:
        return known.content_hash
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    for part in chunks(images.contiguous().cpu().view(-1), max(1, _AT_ONCE // images.element_size())):
        digest.update(part.numpy().data)
    return digest.hexdigest()


def let_go(images: Tensor | np.ndarray) -> None:
    """Drop the pages that this process holds of a mapped tensor or array; they are read again when they are used."""
    found: Any = _map_of(images)
    if found is None and isinstance(images, np.ndarray):  # numpy's own
        found = images
        while isinstance(found, np.ndarray):
            found = found.base
        found = found if isinstance(found, mmap.mmap) else None
    if found is not None and hasattr(mmap, "MADV_DONTNEED"):
        found.madvise(mmap.MADV_DONTNEED)


def rows(images: Tensor, index: Tensor) -> Tensor:
    """``images[index]``, a copy in memory.

    Of a mapped tensor each row is read from the file: nothing of it becomes resident, and a row that is not in the
    system's cache yet costs one read instead of one a page.

    Args:
        images: ``(N, ...)``, on any device.
        index: int64 ``(count,)`` on the host, each in ``0 .. N - 1``.
    """
    if images.device.type != "cpu":
        return images.index_select(0, sent(index, images.device))
    found = _map_of(images)
    if found is None or not images.is_contiguous() or not hasattr(os, "preadv"):
        return images.index_select(0, index)
    out = torch.empty((len(index), *images.shape[1:]), dtype=images.dtype)
    size = images[:1].nbytes
    start = images.storage_offset() * images.element_size()
    if size * len(index) == 0:
        return out
    if not 0 <= int(index.min()) <= int(index.max()) < len(images):
        raise IndexError(f"rows {int(index.min())}..{int(index.max())} of {len(images)}")
    places = [start + size * row for row in index.tolist()]
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        for place in places:  # the disk gets them all at once, and answers in the order it likes
            advise(found.descriptor, place, size, os.POSIX_FADV_WILLNEED)
    target = memoryview(out.view(-1).numpy().view(np.uint8).data)
    for number, place in enumerate(places):
        begin = number * size
        while begin < (number + 1) * size:
            part = target[begin : (number + 1) * size]
            got = os.preadv(found.descriptor, [part], place + begin - number * size)
            if got == 0:
                raise OSError("a mapped file ends too early")
            begin += got
    return out


def chunks(images: Tensor, size: int) -> Iterator[Tensor]:
    """``images`` in parts of at most ``size`` rows, in order; a mapped part is let go when the next is asked for."""
    for part in images.split(size):
        yield part
        let_go(images)
