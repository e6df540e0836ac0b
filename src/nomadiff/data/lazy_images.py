"""Images decoded when they are asked for: for work that goes once through a set that need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.choice import parse_choice
from nomadiff.data.containers import FileTree, open_tree
from nomadiff.data.decoding import decode_image, reason_of
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import images_of, note_of_skipped
from nomadiff.data.labels import labels_in
from nomadiff.data.manifest import manifest_in
from nomadiff.data.mapped import rows
from nomadiff.data.tar_shards import TarTree, shards_of
from nomadiff.errors import DataError, NomadiffWarning
from nomadiff.progress import progress_bar

__all__ = ["LazyImages", "open_lazily"]


class LazyImages:
    """A set of RGB images of one size.

    Args:
        labels: int64 ``(N,)`` class labels, or None.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers.
        manifest: of the set, or None.
        count: number of images.
        read: gives image ``i`` as uint8 ``(C, S, S)``, C 1 or 3; safe to call from threads.
        content: gives the bytes that image ``i`` is made of; safe to call from threads.
    """

    def __init__(
        self,
        labels: Tensor | None,
        class_names: tuple[str, ...] | None,
        manifest: dict[str, Any] | None,
        count: int,
        read: Callable[[int], Tensor],
        content: Callable[[int], bytes],
    ) -> None:
        self.labels, self.class_names, self.manifest = labels, class_names, manifest
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
def open_lazily(
    spec: str | Path, *, resolution: int | None = None, skip_unreadable: bool = False
) -> Iterator[LazyImages]:
    """Open a set for the time of a block: files in a folder or archive one by one, anything else at once.

    Args:
        spec: as for :meth:`~nomadiff.data.image_source.ImageSource.open`.
        resolution: side in pixels to crop and resize to; None asks that all images are square and of one size.
        skip_unreadable: leave out files that cannot be read; every file is then decoded twice, for their number must be
            known at once.

    Raises:
        DataError, UsageError: as :func:`~nomadiff.data.images.read_images`; of a single file when it is asked for.
    """
    choice = parse_choice(str(spec))
    path = Path(choice.location)
    archives = path.is_dir() or path.suffix.lower() in (".zip", ".tar")
    if not archives or shards_of(path, ".parquet"):
        whole = ImageSource.open(
            spec, name=str(spec), synthetic=True, resolution=resolution, skip_unreadable=skip_unreadable
        )
        images = LazyImages(
            whole.labels,
            whole.class_names,
            whole.provenance["manifest"],
            len(whole),
            lambda index: rows(whole.images, torch.tensor([index]))[0],
            lambda index: rows(whole.images, torch.tensor([index])).numpy().tobytes(),
        )
        try:
            yield images
        finally:
            images.close()
        return
    with open_tree(path) as tree, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns once a file about tags and palettes; what matters is raised
        warnings.simplefilter("default", NomadiffWarning)
        choice.refuse("labels", "config", *(() if isinstance(tree, TarTree) else ("images",)))
        manifest = manifest_in(tree)
        names = images_of(tree, choice)
        labels = labels_in(tree, names)
        numbers = labels.tensor()
        if skip_unreadable:
            failures = _unreadable(tree, names, resolution)
            if failures:
                warnings.warn(note_of_skipped(str(path), len(names), failures), NomadiffWarning, stacklevel=3)
            kept = [index for index, name in enumerate(names) if name not in failures]
            if not kept:
                raise DataError(f"{path}: none of {len(names)} images can be read")
            names, numbers = [names[index] for index in kept], None if numbers is None else numbers[kept]

        @contextmanager
        def named(index: int) -> Iterator[str]:
            try:
                yield names[index]
            except MemoryError:
                raise
            except Exception as error:  # damaged files fail in many ways
                told = f"{path}/{names[index]}: cannot be read ({reason_of(error)})"
                raise DataError(f"{told}; pass --skip-unreadable to leave it out") from error

        def content(index: int) -> bytes:
            with named(index) as name:
                return tree.read(name)

        def decoded(index: int) -> np.ndarray:
            with named(index) as name:
                return decode_image(tree.read(name), resolution, name)

        def read(index: int) -> Tensor:
            pixels = decoded(index)
            if pixels.shape[:2] != (side, side):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise DataError(f"{path}/{names[index]}: is {size} pixels; pass --resolution N to crop and resize all")
            return torch.from_numpy(np.array(pixels if pixels.ndim == 3 else pixels[..., None])).permute(2, 0, 1)

        side = decoded(0).shape[0]
        images = LazyImages(numbers, labels.names, manifest, len(names), read, content)
        try:
            yield images
        finally:
            images.close()


def _unreadable(tree: FileTree, names: Sequence[str], resolution: int | None) -> dict[str, str]:
    """Why each of these files cannot be decoded; those that can are left out."""

    def reason(name: str) -> str | None:
        try:
            decode_image(tree.read(name), resolution, name)
        except MemoryError:
            raise
        except Exception as error:  # damaged files fail in many ways
            return reason_of(error)
        return None

    found = {}
    with (
        progress_bar(f"checking {tree.path}", len(names)) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for name, told in zip(names, pool.map(reason, names)):
            if told is not None:
                found[name] = told
            advance()
    return found
