"""Images from disk to one uint8 array: from a folder, an archive, shards, a numpy file or a hub data set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomadiff.data.arrays import fit_array, fitted_shape, read_array
from nomadiff.data.choice import Choice, parse_choice
from nomadiff.data.containers import FileTree, fingerprint, image_names, open_tree, other_names, size_of_archives
from nomadiff.data.decoding import decode_image, is_image_name, reason_of
from nomadiff.data.hub import PREFIX, HubTable
from nomadiff.data.image_cache import Room
from nomadiff.data.image_set import ImageSet
from nomadiff.data.labels import Labels, labels_in
from nomadiff.data.latents import fill_latents, latent_names, latent_shape
from nomadiff.data.manifest import manifest_beside, manifest_in, read_manifest
from nomadiff.data.mapped import let_go
from nomadiff.data.selection import Part
from nomadiff.data.tar_shards import TarTree, sample_of, shards_of
from nomadiff.errors import DataError, NomadiffWarning, UnreadableImages, UsageError
from nomadiff.progress import progress_bar

__all__ = ["images_of", "note_of_skipped", "read_images"]

_ROWS = 1024  # images of a numpy file copied at a time
_CHUNK = 64  # files a thread takes at a time
# Threads pay for files from about this many bytes; for smaller ones, passing the interpreter's lock costs more
# (measured: 50,000 CIFAR-10 files of 2 KB take 4.6 CPU seconds on one thread and 6.8 or more on two).
_WORTH_A_THREAD = 6_000


def read_images(
    path: str | Path,
    *,
    resolution: int | None = None,
    skip_unreadable: bool = False,
    latents: bool = False,
    part: Part = Part(),  # noqa: B008 - frozen
    accept: Callable[[dict[str, Any] | None], None] | None = None,
) -> ImageSet:
    """Read a set of images.

    ``path`` is one of

    * a folder, of any nesting, or a zip or tar archive: image files of every format that Pillow reads, in natural order
      of their names; files of another kind are left out with a warning. Labels come from ``dataset.json`` (EDM's
      layout), or else from the folders when every image lies in one, see :mod:`nomadiff.data.labels`. What happens to
      grey, 16-bit, palette and transparent files is said at :func:`nomadiff.data.decoding.decode_image`; a set that
      mixes grey and RGB becomes RGB.
    * tar shards (WebDataset): a folder of them or a pattern (``train-{000..146}.tar``), see
      :mod:`nomadiff.data.tar_shards`; labels come from ``.cls`` or ``.json`` files beside the images.
    * a ``.npz`` or ``.npy`` file, see :func:`nomadiff.data.arrays.read_array`.
    * ``hf:<data set id>[:split]``, or ``.parquet`` files as the hub stores sets of images: one, a folder or a pattern;
      see :class:`nomadiff.data.hub.HubTable`.

    Where a numpy file or a data set holds several arrays or columns of images, or a tar archive several images of each
    sample, ``#images=NAME`` behind it says which (:mod:`nomadiff.data.choice`).

    A set too large for memory is decoded into a file once, and mapped (:mod:`nomadiff.data.image_cache`).

    Args:
        path: where the images are.
        resolution: side in pixels: the largest centred square of each image is resized to it (Lanczos); images of that
            size are untouched. None asks that all images are square and of one size.
        skip_unreadable: leave out files that cannot be read instead of refusing the set.
        latents: accept a folder or archive of latents (:mod:`nomadiff.data.latents`) as well.
        part: which images are wanted; no others are decoded. With ``skip_unreadable`` it is a part of those that can be
            read, and all are decoded to know them.
        accept: called with the set's manifest before anything is decoded, to refuse it.

    Returns:
        The images, their labels, the names of the files and of those left out.

    Raises:
        DataError: nothing there, unreadable files, mixed sizes, wrong labels: one line that names the file.
        UsageError: the resolution is not positive, ``hf:`` without the extra, latents where images are needed, or no
            such part.
    """
    if resolution is not None and resolution < 1:
        raise UsageError(f"the resolution must be at least 1, got {resolution}")
    choice = parse_choice(str(path))
    location = Path(choice.location)
    on_hub = choice.location.startswith(PREFIX)
    parquet = [] if on_hub else shards_of(location, ".parquet")
    accept = accept or (lambda manifest: None)
    beside = None
    if on_hub or parquet or shards_of(location, ".tar"):
        beside = manifest_beside(Path(choice.location.removeprefix(PREFIX).partition(":")[0]) if on_hub else location)
        accept(beside)
    table = HubTable(choice, parquet) if on_hub or parquet else None
    what = {
        "where": choice.location if on_hub else str(location.absolute()),
        "choice": [choice.images, choice.labels, choice.config],
        "resolution": resolution,
        "skip_unreadable": skip_unreadable,
        "part": part.steps,
        **({} if beside is None else {"manifest": beside}),  # what is decoded keeps it
    }
    room = Room(
        what,
        (lambda: fingerprint(location)) if table is None else table.fingerprint,
        lambda names: _one_can_be_read(table or location, names, resolution),
    )
    reading = _Reading(str(path), resolution, skip_unreadable, latents, part, room, accept)
    with room.turn(size_of_archives(location) if table is None else 0):
        if (found := room.found()) is not None:
            reading.accept(found.manifest)
            if found.latents is not None:
                _require_pixels_are_not_needed(str(path), latents, resolution)
        elif table is not None:
            found = reading.decoded(table.names, table.read, table.labels, beside)
        elif location.suffix.lower() in (".npz", ".npy") and not location.is_dir():
            found = reading.array(location, choice)
        else:
            found = reading.tree(location, choice)
    if found.note:
        warnings.warn(found.note, NomadiffWarning, stacklevel=2)
    return found


def _require_pixels_are_not_needed(where: str, latents: bool, resolution: int | None) -> None:
    if not latents:
        raise UsageError(f"{where} holds latents where images are needed")
    if resolution is not None:
        raise UsageError(f"{where} holds latents, which cannot be resized: encode images at another --resolution")


def _one_can_be_read(place: HubTable | Path, names: Sequence[str], resolution: int | None) -> bool:
    """Whether one of these files can be read by now: it is as it was, but a plugin was installed or a disk is back."""

    def can_be_read(read: Callable[[str], bytes], name: str) -> bool:
        try:
            decode_image(read(name), resolution, name)
        except MemoryError:
            raise
        except Exception:  # damaged files fail in many ways
            return False
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(place, HubTable):
            return any(can_be_read(place.read, name) for name in names)
        with open_tree(place) as tree:
            return any(can_be_read(tree.read, name) for name in names)


class _ColourFound(Exception):
    """A set that began with grey images holds a colour image."""


@dataclass(frozen=True)
class _Reading:
    """How a set is read; see :func:`read_images`."""

    where: str
    resolution: int | None
    skip_unreadable: bool
    latents: bool
    part: Part
    room: Room
    accept: Callable[[dict[str, Any] | None], None]

    def array(self, path: Path, choice: Choice) -> ImageSet:
        """The images of a numpy file."""
        if not path.exists():
            raise DataError(f"{path}: no such file")
        choice.refuse("config", *(("images", "labels") if path.suffix.lower() == ".npy" else ()))
        manifest = read_manifest(path)
        self.accept(manifest)
        array, labels = read_array(path, choice)
        chosen = self.part.indices(len(array), labels, self.where)
        count = len(array) if chosen is None else len(chosen)
        side = fitted_shape(array, self.resolution, str(path))

        def fill(out: np.ndarray) -> ImageSet:
            with progress_bar(f"reading {self.where}", count) as advance:
                for start in range(0, count, _ROWS):
                    rows = slice(start, start + _ROWS)
                    out[rows] = fit_array(array[rows if chosen is None else chosen[rows]], self.resolution, str(path))
                    let_go(out)
                    let_go(array)
                    advance(len(out[rows]))
            numbers = labels.numbers if chosen is None or labels.numbers is None else labels.numbers[chosen]
            found = Labels(numbers).tensor()
            images = torch.from_numpy(out)
            return ImageSet(images, found, None, (), None, labels.names, labels.absent, manifest)

        return self.room.hold((count, *side), np.uint8, fill)

    def tree(self, path: Path, choice: Choice) -> ImageSet:
        """The images, or latents, of a folder or archive."""
        with open_tree(path) as tree:
            choice.refuse("labels", "config", *(() if isinstance(tree, TarTree) else ("images",)))
            manifest = manifest_in(tree)
            self.accept(manifest)
            opened = replace(self, room=self.room.of(tree.fingerprint))
            if not any(map(is_image_name, tree.names)) and (stored := latent_names(tree.names)):
                return opened._latents(tree, stored, manifest)
            names = images_of(tree, choice)
            return opened.decoded(names, tree.read, labels_in(tree, names), manifest)

    def _latents(self, tree: FileTree, names: Sequence[str], manifest: dict[str, Any] | None) -> ImageSet:
        _require_pixels_are_not_needed(self.where, self.latents, self.resolution)
        labels = labels_in(tree, names)
        names, labels = _chosen(names, labels, self.part.indices(len(names), labels, self.where))
        shape, space = latent_shape(tree, names)

        def fill(held: np.ndarray) -> ImageSet:
            fill_latents(tree, names, space, held)
            return ImageSet(
                torch.from_numpy(held), labels.tensor(), tuple(names), (), space, labels.names, labels.absent, manifest
            )

        return self.room.hold(shape, np.float16, fill)

    def decoded(
        self,
        names: Sequence[str],
        read: Callable[[str], bytes],
        labels: Labels,
        manifest: dict[str, Any] | None,
    ) -> ImageSet:
        """Decode files into one array; large ones in threads, for Pillow decodes outside the interpreter's lock."""
        if not self.skip_unreadable:  # or which images are chosen is known when all have been tried
            names, labels = _chosen(names, labels, self.part.indices(len(names), labels, self.where))
        where = self.where
        failures: dict[int, str] = {}

        def attempt(index: int) -> np.ndarray | None:
            try:
                return decode_image(read(names[index]), self.resolution, names[index])
            except MemoryError:
                raise
            except Exception as error:
                failures[index] = reason_of(error)
                return None

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns once a file about tags and palettes; what matters is raised
            begin, first = next(
                ((i, array) for i in range(len(names)) if (array := attempt(i)) is not None), (-1, None)
            )
            if first is None:
                raise UnreadableImages(f"{where}: {_failed(names, failures)}")
            height, width = first.shape[:2]
            if height != width:
                raise DataError(f"{where}: {names[begin]} is {width}x{height} pixels, not square; pass --resolution N")
            workers = min(8, os.cpu_count() or 1) if len(read(names[begin])) >= _WORTH_A_THREAD else 1

        def fill(out: np.ndarray) -> ImageSet:
            def some(indices: range) -> int:
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
            with (
                warnings.catch_warnings(),
                progress_bar(f"reading {where}", len(names)) as advance,
                ThreadPoolExecutor(workers) as pool,
            ):
                warnings.simplefilter("ignore")
                for count in pool.map(some, chunks):
                    let_go(out)
                    advance(count)
            if failures and not self.skip_unreadable:
                raise UnreadableImages(f"{where}: {_failed(names, failures)}; pass --skip-unreadable to leave them out")
            kept = np.array([index for index in range(len(names)) if index not in failures])
            kept_names, kept_labels = _chosen(names, labels, kept if failures else None)
            if self.skip_unreadable:
                chosen = self.part.indices(len(kept), kept_labels, where)
                kept_names, kept_labels = _chosen(kept_names, kept_labels, chosen)
                kept = kept if chosen is None else kept[chosen]
            for new, old in enumerate(kept) if len(kept) < len(names) else ():
                out[new] = out[old]  # in place: the array may be most of the memory
            return ImageSet(
                images=torch.from_numpy(out[: len(kept)]),
                labels=kept_labels.tensor(),
                names=tuple(kept_names),
                skipped=tuple(names[index] for index in sorted(failures)),
                class_names=labels.names,
                unlabelled=labels.absent,
                manifest=manifest,
                note=note_of_skipped(where, len(names), {names[index]: failures[index] for index in sorted(failures)}),
            )

        for channels in (1, 3) if first.ndim == 2 else (3,):
            try:
                return self.room.hold((len(names), channels, height, width), np.uint8, fill)
            except _ColourFound:  # rare: begin again with room for colour
                continue
        raise AssertionError("a set has grey images or coloured ones")


def _chosen(names: Sequence[str], labels: Labels, indices: np.ndarray | None) -> tuple[Sequence[str], Labels]:
    """Some of the files of a set, and their labels."""
    if indices is None:
        return names, labels
    numbers = None if labels.numbers is None else labels.numbers[indices]
    return [names[index] for index in indices.tolist()], replace(labels, numbers=numbers)


def _failed(names: Sequence[str], failures: dict[int, str]) -> str:
    shown = [f"{names[index]} ({failures[index]})" for index in sorted(failures)[:4]]
    more = f" and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
    return f"{len(failures)} of {len(names)} images cannot be read: {', '.join(shown)}{more}"


def images_of(tree: FileTree, choice: Choice) -> list[str]:
    """The names of all images of a folder or archive, in order; other files are named in a warning.

    Of a tar archive with several images of each sample they are the chosen ones.

    Raises:
        DataError: there is none.
        UsageError: none is chosen, or what there is not.
    """
    names, others = image_names(tree.names), other_names(tree.names)
    if isinstance(tree, TarTree) and others:  # what lies beside an image of its sample: labels, captions
        samples = set(map(sample_of, names))
        others = [name for name in others if sample_of(name) not in samples]
    if not names:
        raise DataError(f"{tree.path}: holds no images{f' but {_some(others)}' if others else ''}")
    if others:
        few = "1 file is not an image and was" if len(others) == 1 else f"{len(others)} files are not images and were"
        warnings.warn(f"{tree.path}: {few} left out: {_some(others)}", NomadiffWarning, stacklevel=2)
    return tree.chosen(names, choice) if isinstance(tree, TarTree) else names


def note_of_skipped(where: str, count: int, failures: Mapping[str, str]) -> str:
    """A line for every file of a set that was left out, and why; empty if none was.

    Args:
        where: the set.
        count: number of its files.
        failures: reason for every unreadable one, by name.
    """
    if not failures:
        return ""
    told = [f"{where}: {len(failures)} of {count} images cannot be read and were left out:"]
    return "\n".join([*told, *(f"  {name} ({reason})" for name, reason in failures.items())])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
