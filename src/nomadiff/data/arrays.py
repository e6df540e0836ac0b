"""Images in numpy files: ``.npy``, and ``.npz`` with ``images`` and perhaps ``labels``. Pickles are never loaded."""

from __future__ import annotations

import math
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from nomadiff.data import image_cache
from nomadiff.data.choice import Choice
from nomadiff.data.containers import open_entry
from nomadiff.data.decoding import fit_square, reason_of
from nomadiff.data.labels import Labels, checked_labels, named_labels
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import normal_name, open_regular

__all__ = ["channel_axis", "fit_array", "fitted_shape", "read_array"]

_COPIED = 1 << 20  # bytes at a time
_BOMB = (512 << 20, 200)  # an array larger than this many bytes must not unpack to more than so many times its size


def read_array(path: Path, choice: Choice | None = None) -> tuple[np.ndarray, Labels]:
    """Read images and labels from a ``.npz`` or ``.npy`` file.

    In a ``.npz`` the images are the array that was chosen, or ``images``, or else the only one of uint8 with four
    dimensions; the labels are the array that was chosen, or ``labels``, or else ``label``, ``y`` or ``arr_1`` (ADM's
    samples) if it holds one integer an image. Channels may come last, ``(N, H, W, C)``, or second, ``(N, C, H, W)``; 1
    and 3 channels are understood.

    Args:
        path: the file.
        choice: names of arrays, see :func:`~nomadiff.data.choice.parse_choice`.

    Returns:
        uint8 ``(N, C, H, W)``, of a ``.npy`` and a large ``.npz`` mapped and not read yet, in any order of memory; and
        the labels.

    Raises:
        DataError: the file is unreadable or damaged, holds Python objects, or holds no uint8 images.
        UsageError: several arrays could be the images, or one is named that is not there.
    """
    choice = choice or Choice(str(path))
    try:
        if path.suffix.lower() == ".npy":
            with open_regular(path) as handle:
                _check(path.name, handle, path)
            images, labels, names = np.load(path, mmap_mode="r", allow_pickle=False), None, None
        else:
            images, labels, names = _read_members(path, choice)
    except NomadiffError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged files make numpy and zipfile raise a dozen kinds
        raise DataError(f"{path}: not a numpy file, or damaged ({reason_of(error)})") from error
    axis = channel_axis(images, path)
    images = images if axis == 1 else images.transpose(0, 3, 1, 2)
    if labels is None:
        return images, Labels(None, absent="no array 'labels'")
    numbers = checked_labels(labels, len(images), str(path))
    return images, named_labels(numbers, None if names is None else names.tolist(), str(path))


def fit_array(images: np.ndarray, resolution: int | None, where: str) -> np.ndarray:
    """Make an array of images square, ``resolution`` pixels a side, as image files are (crop, Lanczos).

    Args:
        images: uint8 ``(N, C, H, W)``.
        resolution: side in pixels; None asks for images that are square already.
        where: name of the set for messages.

    Returns:
        uint8 ``(N, C, S, S)``; ``images`` itself when there is nothing to do.

    Raises:
        DataError: not square, and no resolution is given.
    """
    shape = fitted_shape(images, resolution, where)
    if images.shape[1:] == shape:
        return images
    out = np.empty((len(images), *shape), dtype=np.uint8)
    for source, target in zip(images, out):
        pixels = source[0] if len(source) == 1 else source.transpose(1, 2, 0)
        fitted = np.asarray(fit_square(Image.fromarray(np.ascontiguousarray(pixels)), shape[-1]))
        target[:] = fitted if len(source) == 1 else fitted.transpose(2, 0, 1)
    return out


def fitted_shape(images: np.ndarray, resolution: int | None, where: str) -> tuple[int, int, int]:
    """``(C, S, S)`` of what :func:`fit_array` gives, and what it raises."""
    _, channels, height, width = images.shape
    if resolution is None and height != width:
        raise DataError(f"{where}: images are {width}x{height} pixels, not square; pass --resolution N")
    side = height if resolution is None else resolution
    return channels, side, side


def _read_members(path: Path, choice: Choice) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Images, labels and class names of a ``.npz``, in the shapes they are stored in. No other member is read."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = {normal_name(e.filename)[:-4]: e for e in archive.infolist() if e.filename.endswith(".npy")}
        headers = {}
        for name, entry in entries.items():
            if entry.file_size > _BOMB[0] and entry.file_size > _BOMB[1] * entry.compress_size:
                raise DataError(f"{path}: {name}.npy looks like a decompression bomb; refused")
            with open_entry(archive, entry) as handle:
                headers[name] = shape, dtype = _check(f"{name}.npy", handle, path)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise DataError(f"{path}: {name}.npy claims the shape {shape}, for which it is too small")
        for what in ("images", "labels"):
            if (named := getattr(choice, what)) not in (None, "none", *headers):
                raise UsageError(f"{path}: holds no array {named!r} (arrays: {', '.join(headers)})")
        images = choice.images or ("images" if "images" in headers else None)
        if images is None:
            pictures = [name for name, (shape, _) in headers.items() if len(shape) == 4]
            of_bytes = [name for name in pictures if headers[name][1] == np.uint8]
            images = choice.one_of("images", of_bytes or pictures)
        if images is None:
            raise DataError(f"{path}: holds no array 'images' and none with four dimensions")
        count = headers[images][0][:1]

        def labels_an_image(name: str) -> bool:
            return name in headers and headers[name][0] == count and headers[name][1].kind in "iu"

        known = ["labels"] if "labels" in headers else list(filter(labels_an_image, ("label", "y", "arr_1")))
        labels = choice.one_of("labels", known[:1])
        if labels in headers and headers[labels][0] != count:  # nothing is read of an array that cannot be it
            got = "x".join(map(str, headers[labels][0])) or "scalar"
            wanted_count = "".join(map(str, count))
            raise DataError(f"{path}: labels must be {wanted_count} integers, got {headers[labels][1]} of shape {got}")
        wanted = [images] if labels in (None, "none") else [images, labels]
        if labels == "labels" and "class_names" in headers:
            wanted.append("class_names")
        found: list[np.ndarray | None] = []
        for name in wanted:
            with open_entry(archive, entries[name]) as handle:
                large = name == images and entries[name].file_size > image_cache.LARGEST_HELD
                found.append(_unpacked(handle) if large else np.lib.format.read_array(handle, allow_pickle=False))
        pictures_found, numbers, names = [*found, None, None][:3]
        assert pictures_found is not None
        return pictures_found, numbers, names


def _unpacked(handle: IO[bytes]) -> np.ndarray:
    """An array that is too large for memory, mapped from a nameless file that goes with it.

    One that is stored as it is could be mapped where it lies, but then nothing would notice damage.
    """
    with image_cache.scratch_file() as file:
        shutil.copyfileobj(handle, file, _COPIED)
        file.seek(0)
        shape, dtype, is_fortran = _header(file)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _check(name: str, handle: IO[Any], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array whose header comes next; refuses Python objects before anything is read."""
    shape, dtype, _ = _header(handle)
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects (a pickle), which is never loaded")
    return shape, dtype


def _header(handle: IO[Any]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and whether the order is Fortran's of the array whose bytes come next."""
    version = np.lib.format.read_magic(handle)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(handle)
    return shape, dtype, is_fortran


def channel_axis(images: np.ndarray, where: str | Path) -> int:
    """Which axis of uint8 images, ``(N, H, W, C)`` or ``(N, C, H, W)``, counts the channels: 1 or 3.

    Raises:
        DataError: no such array, or the shape does not tell.
    """
    shape = "x".join(map(str, images.shape))
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{where}: expected uint8 images of shape NxHxWxC or NxCxHxW, got {images.dtype} of shape {shape}"
        )
    if 0 in images.shape:
        raise DataError(f"{where}: holds no images (shape {shape})")
    axes = [axis for axis in (1, 3) if images.shape[axis] in (1, 3)]
    if len(axes) == 2:  # tiny images: the other two axes must make a square
        squares = {1: images.shape[2] == images.shape[3], 3: images.shape[1] == images.shape[2]}
        axes = [axis for axis in axes if squares[axis]]
    if len(axes) != 1:
        why = "no axis has 1 or 3 channels" if not axes else "channels first or last?"
        raise DataError(f"{where}: cannot tell the channels in shape {shape} ({why})")
    return axes[0]
