"""Images in numpy files: ``.npy``, and ``.npz`` with ``images`` and perhaps ``labels``. Pickles are never loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from nomadiff.data.decoding import fit_square
from nomadiff.data.labels import checked_labels
from nomadiff.errors import DataError
from nomadiff.progress import progress_bar

__all__ = ["fit_array", "read_array"]

_BOMB = (512 << 20, 200)  # an array larger than this many bytes must not unpack to more than so many times its size


def read_array(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images and labels from a ``.npz`` or ``.npy`` file.

    In a ``.npz`` the images are the array ``images``, or else the first one with four dimensions. Channels may come
    last, ``(N, H, W, C)``, or second, ``(N, C, H, W)``; 1 and 3 channels are understood.

    Returns:
        uint8 ``(N, C, H, W)``, contiguous, and int64 ``(N,)`` or None.

    Raises:
        DataError: the file is unreadable or damaged, holds Python objects, or holds no uint8 images.
    """
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as handle:
                _check(path.name, handle, path)
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            images, labels = _read_members(path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged files make numpy and zipfile raise a dozen kinds
        raise DataError(f"{path}: not a numpy file, or damaged ({error})") from error
    axis = _channel_axis(images, path)
    images = images if axis == 1 else images.transpose(0, 3, 1, 2)
    if labels is not None:
        labels = checked_labels(labels, len(images), str(path))
    return np.array(images, order="C"), labels


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
    count, channels, height, width = images.shape
    if resolution is None:
        if height != width:
            raise DataError(f"{where}: images are {width}x{height} pixels, not square; pass --resolution N")
        return images
    if (height, width) == (resolution, resolution):
        return images
    out = np.empty((count, channels, resolution, resolution), dtype=np.uint8)
    with progress_bar(f"resizing {where}", count) as advance:
        for source, target in zip(images, out):
            pixels = source[0] if channels == 1 else source.transpose(1, 2, 0)
            fitted = np.asarray(fit_square(Image.fromarray(np.ascontiguousarray(pixels)), resolution))
            target[:] = fitted if channels == 1 else fitted.transpose(2, 0, 1)
            advance()
    return out


def _read_members(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images and the labels of a ``.npz``, in the shapes they are stored in. Only these two members are read."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                if entry.file_size > _BOMB[0] and entry.file_size > _BOMB[1] * entry.compress_size:
                    raise DataError(f"{path}: {entry.filename} looks like a decompression bomb; refused")
                with archive.open(entry) as handle:
                    shapes[entry.filename[:-4]] = _check(entry.filename, handle, path)
        name = "images" if "images" in shapes else next((key for key, shape in shapes.items() if len(shape) == 4), None)
        if name is None:
            raise DataError(f"{path}: holds no array 'images' and none with four dimensions")
        images = _member(archive, name)
        return images, _member(archive, "labels") if "labels" in shapes else None


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def _check(name: str, handle: IO[Any], path: Path) -> tuple[int, ...]:
    """Shape of the array whose header comes next; refuses Python objects before anything is read."""
    version = np.lib.format.read_magic(handle)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(handle)
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects (a pickle), which is never loaded")
    return shape


def _channel_axis(images: np.ndarray, path: Path) -> int:
    """Which axis of a four-dimensional array counts the channels: 1 or 3."""
    shape = "x".join(map(str, images.shape))
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{path}: expected uint8 images of shape NxHxWxC or NxCxHxW, got {images.dtype} of shape {shape}"
        )
    if 0 in images.shape:
        raise DataError(f"{path}: holds no images (shape {shape})")
    axes = [axis for axis in (1, 3) if images.shape[axis] in (1, 3)]
    if len(axes) == 2:  # tiny images: the other two axes must make a square
        squares = {1: images.shape[2] == images.shape[3], 3: images.shape[1] == images.shape[2]}
        axes = [axis for axis in axes if squares[axis]]
    if len(axes) != 1:
        why = "no axis has 1 or 3 channels" if not axes else "channels first or last?"
        raise DataError(f"{path}: cannot tell the channels in shape {shape} ({why})")
    return axes[0]
