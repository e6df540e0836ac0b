"""Images from disk to one uint8 array: from a folder, a zip, a numpy file or a hub data set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.arrays import fit_array, read_array
from nomadiff.data.choice import parse_choice
from nomadiff.data.containers import FileTree, image_names, open_tree, other_names
from nomadiff.data.decoding import decode_image, reason_of
from nomadiff.data.hub import PREFIX, HubTable
from nomadiff.data.labels import Labels, labels_in
from nomadiff.data.latents import LatentSpace, latent_names, read_latents
from nomadiff.errors import DataError, NomadiffWarning, UsageError
from nomadiff.progress import progress_bar

__all__ = ["ImageSet", "images_of", "read_images", "warn_of_skipped"]

_CHUNK = 64  # files a thread takes at a time
# Threads pay for files from about this many bytes; for smaller ones, passing the interpreter's lock costs more
# (measured: 50,000 CIFAR-10 files of 2 KB take 4.6 CPU seconds on one thread and 6.8 or more on two).
_WORTH_A_THREAD = 6_000


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as they are held in memory.

    Attributes:
        images: uint8 ``(N, C, H, W)``, C 1 (grey) or 3 (RGB), H = W; for latents what
            :func:`~nomadiff.data.latents.read_latents` gives.
        labels: int64 ``(N,)`` class labels, or None.
        names: relative names of the files the images came from; None for arrays.
        skipped: names of files left out because they could not be read.
        latents: the space of latents; None for images.
        class_names, unlabelled: ``names`` and ``absent`` of :class:`~nomadiff.data.labels.Labels`.
    """

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...] | None
    skipped: tuple[str, ...] = ()
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] | None = None
    unlabelled: str | None = None


def read_images(
    path: str | Path, *, resolution: int | None = None, skip_unreadable: bool = False, latents: bool = False
) -> ImageSet:
    """Read a set of images.

    ``path`` is one of

    * a folder, of any nesting, or a zip archive: image files of every format that Pillow reads, in natural order of
      their names; files of another kind are left out with a warning. Labels come from ``dataset.json`` (EDM's layout),
      or else from the folders when every image lies in one, see :mod:`nomadiff.data.labels`. What happens to grey,
      16-bit, palette and transparent files is said at :func:`nomadiff.data.decoding.decode_image`; a set that mixes
      grey and RGB becomes RGB.
    * a ``.npz`` or ``.npy`` file, see :func:`nomadiff.data.arrays.read_array`.
    * ``hf:<data set id>[:split]``, see :class:`nomadiff.data.hub.HubTable`.

    Where a numpy file or a data set holds several arrays or columns of images, ``#images=NAME`` behind it says which
    (:mod:`nomadiff.data.choice`).

    Args:
        path: where the images are.
        resolution: side in pixels: the largest centred square of each image is resized to it (Lanczos); images of that
            size are untouched. None asks that all images are square and of one size.
        skip_unreadable: leave out files that cannot be read instead of refusing the set.
        latents: accept a folder or archive of latents (:mod:`nomadiff.data.latents`) as well.

    Returns:
        The images, their labels, the names of the files and of those left out.

    Raises:
        DataError: nothing there, unreadable files, mixed sizes, wrong labels: one line that names the file.
        UsageError: the resolution is not positive, ``hf:`` without the extra, or latents where images are needed.
    """
    if resolution is not None and resolution < 1:
        raise UsageError(f"the resolution must be at least 1, got {resolution}")
    choice = parse_choice(str(path))
    if choice.location.startswith(PREFIX):
        table = HubTable(choice)
        return _decoded(str(path), table.names, table.read, table.labels, resolution, skip_unreadable)
    path = Path(choice.location)
    if path.suffix.lower() in (".npz", ".npy") and not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file")
        choice.refuse("config", *(("images", "labels") if path.suffix.lower() == ".npy" else ()))
        array, labels = read_array(path, choice)
        images = torch.from_numpy(fit_array(array, resolution, str(path)))
        return ImageSet(images, labels.tensor(), None, class_names=labels.names, unlabelled=labels.absent)
    choice.refuse("images", "labels", "config")
    with open_tree(path) as tree:
        if not image_names(tree.names) and (stored := latent_names(tree.names)):
            if not latents:
                raise UsageError(f"{path} holds latents where images are needed")
            if resolution is not None:
                raise UsageError(
                    f"{path} holds latents, which cannot be resized: encode images at another --resolution"
                )
            found, space = read_latents(tree, stored)
            labels = labels_in(tree, stored)
            return ImageSet(found, labels.tensor(), tuple(stored), (), space, labels.names, labels.absent)
        names = images_of(tree)
        return _decoded(str(path), names, tree.read, labels_in(tree, names), resolution, skip_unreadable)


class _ColourFound(Exception):
    """A set that began with grey images holds a colour image."""


def _decoded(
    where: str,
    names: Sequence[str],
    read: Callable[[str], bytes],
    labels: Labels,
    resolution: int | None,
    skip_unreadable: bool,
) -> ImageSet:
    """Decode all files into one array; large ones in threads, for Pillow decodes outside the interpreter's lock."""
    failures: dict[int, str] = {}

    def attempt(index: int) -> np.ndarray | None:
        try:
            return decode_image(read(names[index]), resolution, names[index])
        except MemoryError:
            raise
        except Exception as error:
            failures[index] = reason_of(error)
            return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns once a file about tags and palettes; what matters is raised
        begin, first = next(((i, pixels) for i in range(len(names)) if (pixels := attempt(i)) is not None), (-1, None))
        if first is None:
            raise DataError(f"{where}: {_failed(names, failures)}")
        height, width = first.shape[:2]
        if height != width:
            raise DataError(f"{where}: {names[begin]} is {width}x{height} pixels, not square; pass --resolution N")
        workers = min(8, os.cpu_count() or 1) if len(read(names[begin])) >= _WORTH_A_THREAD else 1

        def fill(indices: range) -> int:
            for index in indices:
                pixels = attempt(index)
                if pixels is None:
                    continue
                if pixels.shape[:2] != (height, width):
                    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                    sizes = f"{names[begin]} is {width}x{height} pixels but {names[index]} is {size}"
                    raise DataError(f"{where}: {sizes}; pass --resolution N to crop and resize them")
                if pixels.ndim == 3 and out.shape[1] == 1:
                    raise _ColourFound
                out[index] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            return len(indices)

        chunks = [range(start, min(start + _CHUNK, len(names))) for start in range(0, len(names), _CHUNK)]
        for channels in (1, 3) if first.ndim == 2 else (3,):
            out = np.empty((len(names), channels, height, width), dtype=np.uint8)
            try:
                with (
                    progress_bar(f"reading {where}", len(names)) as advance,
                    ThreadPoolExecutor(workers) as pool,
                ):
                    for count in pool.map(fill, chunks):
                        advance(count)
                break
            except _ColourFound:  # rare: begin again with room for colour
                continue

    if failures and not skip_unreadable:
        raise DataError(f"{where}: {_failed(names, failures)}; pass --skip-unreadable to leave them out")
    warn_of_skipped(where, len(names), {names[index]: failures[index] for index in sorted(failures)})
    kept = [index for index in range(len(names)) if index not in failures]
    for new, old in enumerate(kept) if failures else ():  # in place: the array may be most of the memory
        out[new] = out[old]
    return ImageSet(
        images=torch.from_numpy(out[: len(kept)]),
        labels=None if labels.numbers is None else torch.from_numpy(labels.numbers[kept]),
        names=tuple(names[index] for index in kept),
        skipped=tuple(names[index] for index in sorted(failures)),
        class_names=labels.names,
        unlabelled=labels.absent,
    )


def _failed(names: Sequence[str], failures: dict[int, str]) -> str:
    shown = [f"{names[index]} ({failures[index]})" for index in sorted(failures)[:4]]
    more = f" and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
    return f"{len(failures)} of {len(names)} images cannot be read: {', '.join(shown)}{more}"


def images_of(tree: FileTree) -> list[str]:
    """The names of all images of a folder or archive, in order; other files are named in a warning.

    Raises:
        DataError: there is none.
    """
    names, others = image_names(tree.names), other_names(tree.names)
    if not names:
        raise DataError(f"{tree.path}: holds no images{f' but {_some(others)}' if others else ''}")
    if others:
        few = "1 file is not an image and was" if len(others) == 1 else f"{len(others)} files are not images and were"
        warnings.warn(f"{tree.path}: {few} left out: {_some(others)}", NomadiffWarning, stacklevel=2)
    return names


def warn_of_skipped(where: str, count: int, failures: Mapping[str, str]) -> None:
    """Name every file of a set that was left out, and why.

    Args:
        where: the set.
        count: number of its files.
        failures: reason for every unreadable one, by name.
    """
    if failures:
        told = [f"{where}: {len(failures)} of {count} images cannot be read and were left out:"]
        told += [f"  {name} ({reason})" for name, reason in failures.items()]
        warnings.warn("\n".join(told), NomadiffWarning, stacklevel=2)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
