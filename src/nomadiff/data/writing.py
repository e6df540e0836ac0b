"""Writing a set of images whole or not at all: an EDM-layout folder or zip, or a ``.npz``, with its manifest."""

from __future__ import annotations

import io
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nomadiff.data.labels import LABELS_NAME, labels_json
from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.errors import UsageError
from nomadiff.files import atomic_folder, atomic_path, check_output

__all__ = ["check_images_output", "refuse_existing", "store_entry", "write_images"]

_NO_FOLDERS = (".png", ".jpg", ".jpeg", ".webp", ".npy", ".tar", ".parquet")  # what such a folder would be taken for

_WORTH_A_THREAD = 3 * 64 * 64  # bytes of an image: a millisecond


def write_images(
    path: str | Path,
    images: Iterable[Tensor],
    count: int,
    *,
    labels: Tensor | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    manifest: dict[str, Any],
) -> None:
    """Write images as they come to a folder, a ``.zip`` or a ``.npz``.

    Folders and zips have EDM's layout: ``00000/img00000000.png``, ``dataset.json`` with the labels or null. In a zip
    everything is stored uncompressed, so that it reads fast. A ``.npz`` holds ``images``, uint8 ``(N, H, W, C)``, and
    ``labels``. All carry ``manifest.json``. The set appears under its name when it is complete; until then, and if
    anything fails, there is nothing. Equal images give equal bytes.

    Args:
        path: where to write; the ending decides the kind.
        images: batches, uint8 ``(b, C, H, W)`` with C 1 or 3, on any device; taken one at a time.
        count: number of images in all.
        labels: class label of every image.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers.
        manifest: what the images are: model, method, seed, ... Written with ``"kind": "synthetic"`` unless it names a
            kind, and ``count``.

    Raises:
        UsageError: something is there already; images or labels of another number, type or shape than said.
        NomadiffError: the disk is full, or the path cannot be written.
    """
    path = Path(path)
    check_images_output(path)
    numbers = None if labels is None else [int(label) for label in labels]
    if numbers is not None and len(numbers) != count:
        raise UsageError(f"{path}: {len(numbers)} labels for {count} images")
    about = json.dumps({"kind": "synthetic", **manifest, "count": count}, indent=2, ensure_ascii=False, allow_nan=False)
    rows = _rows(path, images, count)
    if path.suffix.lower() == ".npz":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_arrays(archive, rows, count, numbers, class_names)
            store_entry(archive, MANIFEST_NAME, about.encode())
    elif path.suffix.lower() == ".zip":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_files(partial(store_entry, archive), rows, numbers, class_names, compress_level=0)
            store_entry(archive, MANIFEST_NAME, about.encode())
    else:
        with atomic_folder(path) as temporary:

            def save(name: str, data: bytes) -> None:
                target = temporary / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)

            _write_files(save, rows, numbers, class_names, compress_level=6)
            save(MANIFEST_NAME, about.encode())


def check_images_output(path: Path) -> None:
    """:func:`refuse_existing` for a set of images: a folder is not to look like a file of another kind.

    Raises:
        UsageError, NomadiffError: as there, or by its name it would be such a file.
    """
    if path.suffix.lower() in _NO_FOLDERS:
        raise UsageError(f"{path}: images go into a folder, a .zip or a .npz: give such a name")
    refuse_existing(path)


def refuse_existing(path: Path) -> None:
    """Say that ``path`` is taken or cannot be written, before any work is done; an empty folder is free.

    Raises:
        UsageError: it exists, or cannot be a file.
        NomadiffError: the disk is full, or the path cannot be written.
    """
    check_output(path, "new")
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise UsageError(f"{path}: exists already; refusing to overwrite (choose another name or remove it)")


def _rows(path: Path, images: Iterable[Tensor], count: int) -> Iterator[np.ndarray]:
    """The images one by one as uint8 (H, W, C), checked to be as many and as alike as promised."""
    done, shape = 0, None
    for batch in images:
        array = batch.detach().cpu().numpy()
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
            size = "x".join(map(str, array.shape))
            raise UsageError(f"{path}: images must be uint8 (b, 1 or 3, H, W), got {array.dtype} of shape {size}")
        shape = shape or array.shape[1:]
        if array.shape[1:] != shape:
            raise UsageError(f"{path}: images must have one shape, got {shape} and {array.shape[1:]}")
        done += len(array)
        if done > count:
            raise UsageError(f"{path}: expected {count} images, got at least {done}")
        yield from array.transpose(0, 2, 3, 1)
    if done != count or count == 0:
        raise UsageError(f"{path}: expected {count} images, got {done}; a set needs at least one")


def _write_files(
    save: Callable[[str, bytes], None],
    rows: Iterator[np.ndarray],
    labels: list[int] | None,
    class_names: Sequence[str] | None,
    *,
    compress_level: int,
) -> None:
    def encode(pixels: np.ndarray) -> bytes:
        encoded = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        image.save(encoded, "PNG", compress_level=compress_level)
        return encoded.getvalue()

    for index, data in enumerate(_in_threads(encode, rows)):
        save(_image_name(index), data)
    pairs = None if labels is None else ((_image_name(index), label) for index, label in enumerate(labels))
    save(LABELS_NAME, json.dumps(labels_json(pairs, class_names)).encode())


def _in_threads(encode: Callable[[np.ndarray], bytes], rows: Iterator[np.ndarray]) -> Iterator[bytes]:
    """The rows encoded, in their order, by as many threads as torch may use: Pillow lets go of Python meanwhile.

    Images of 512 x 512 take as long to encode as a GPU takes to draw them. Small ones are not worth a thread's call.
    """
    first = next(rows, None)
    rest = rows if first is None else chain([first], rows)
    threads = torch.get_num_threads()
    if threads == 1 or first is None or first.size < _WORTH_A_THREAD:
        yield from map(encode, rest)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[bytes]] = deque()
        for row in rest:
            waiting.append(pool.submit(encode, row))
            if len(waiting) > 2 * threads:  # no more in memory than keeps every thread busy
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _image_name(index: int) -> str:
    return f"{index // 1000:05d}/img{index:08d}.png"


def _write_arrays(
    archive: zipfile.ZipFile,
    rows: Iterator[np.ndarray],
    count: int,
    labels: list[int] | None,
    class_names: Sequence[str] | None,
) -> None:
    first = next(rows)
    with archive.open(_entry("images.npy"), "w", force_zip64=True) as handle:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)}
        np.lib.format.write_array_header_1_0(handle, header)
        handle.write(first.tobytes())
        for pixels in rows:
            handle.write(pixels.tobytes())
    if labels is not None:
        arrays = {"labels": np.array(labels, dtype=np.int64)}
        if class_names is not None:
            arrays["class_names"] = np.array(class_names)
        for name, array in arrays.items():
            with archive.open(_entry(f"{name}.npy"), "w") as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)


def store_entry(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Put a file into an archive, uncompressed and undated: equal contents give equal archives."""
    archive.writestr(_entry(name), data)


def _entry(name: str) -> zipfile.ZipInfo:
    """A stored entry with a fixed date (equal sets give equal files) that everyone may read once unpacked."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry
