"""Images decoded when they are asked for: for work that goes once through a set that need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.containers import image_names, open_tree
from nomadiff.data.decoding import decode_image, reason_of
from nomadiff.data.images import labels_in
from nomadiff.data.manifest import read_manifest
from nomadiff.data.sources import ImageSource
from nomadiff.errors import DataError

__all__ = ["LazyImages", "open_lazily"]


class LazyImages:
    """A set of RGB images of one size.

    Args:
        labels: int64 ``(N,)`` class labels, or None.
        manifest: of the set, or None.
        count: number of images.
        read: gives image ``i`` as uint8 ``(C, S, S)``, C 1 or 3; safe to call from threads.
        content: gives the bytes that image ``i`` is made of; safe to call from threads.
    """

    def __init__(
        self,
        labels: Tensor | None,
        manifest: dict[str, Any] | None,
        count: int,
        read: Callable[[int], Tensor],
        content: Callable[[int], bytes],
    ) -> None:
        self.labels, self.manifest = labels, manifest
        self._count, self._read, self._content = count, read, content
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> Tensor:
        """Images ``start .. stop - 1``: uint8 ``(n, 3, S, S)``, grey ones in three equal channels.

        Raises:
            DataError: a file cannot be read; the message names it.
        """
        return torch.stack([image.expand(3, -1, -1) for image in self._pool.map(self._read, range(start, stop))])

    def digest(self, start: int, stop: int) -> str:
        """32 hexadecimal digits that change when one of the images ``start .. stop - 1``, or their order, changes.

        Raises:
            DataError: a file cannot be read; the message names it.
        """
        each = self._pool.map(lambda index: hashlib.sha256(self._content(index)).digest(), range(start, stop))
        return hashlib.sha256(b"".join(each)).hexdigest()[:32]

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


@contextmanager
def open_lazily(spec: str | Path, *, resolution: int | None = None) -> Iterator[LazyImages]:
    """Open a set for the time of a block: files in a folder or zip one by one, anything else at once.

    Args:
        spec: as for :meth:`~nomadiff.data.sources.ImageSource.open`.
        resolution: side in pixels to crop and resize to; None asks that all images are square and of one size.

    Raises:
        DataError, UsageError: as :func:`~nomadiff.data.images.read_images`; of a single file when it is asked for.
    """
    path = Path(spec)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        whole = ImageSource.open(spec, name=str(spec), synthetic=True, resolution=resolution)
        images = LazyImages(
            whole.labels,
            whole.provenance["manifest"],
            len(whole),
            lambda index: whole.images[index],
            lambda index: whole.images[index].numpy().tobytes(),
        )
        try:
            yield images
        finally:
            images.close()
        return
    manifest = read_manifest(path)
    with open_tree(path) as tree:
        names = image_names(tree.names)
        if not names:
            raise DataError(f"{path}: holds no images")
        labels = labels_in(tree, names)

        @contextmanager
        def named(index: int) -> Iterator[str]:
            try:
                yield names[index]
            except MemoryError:
                raise
            except Exception as error:  # damaged files fail in many ways
                raise DataError(f"{path}/{names[index]}: cannot be read ({reason_of(error)})") from error

        def content(index: int) -> bytes:
            with named(index) as name:
                return tree.read(name)

        def read(index: int) -> Tensor:
            with named(index) as name:
                pixels = decode_image(tree.read(name), resolution)
            if pixels.shape[:2] != (side, side):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise DataError(f"{path}/{names[index]}: is {size} pixels; pass --resolution N to crop and resize all")
            return torch.from_numpy(np.array(pixels if pixels.ndim == 3 else pixels[..., None])).permute(2, 0, 1)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns once a file about tags and palettes; what matters is raised
            side = decode_image(tree.read(names[0]), resolution).shape[0]
            known = None if labels is None else torch.from_numpy(labels)
            images = LazyImages(known, manifest, len(names), read, content)
            try:
                yield images
            finally:
                images.close()
