"""A set of synthetic images with its provenance, drawn image by image; after a kill it continues."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from nomadiff.data.decoding import fit_square
from nomadiff.data.labels import LABELS_NAME, labels_json
from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.data.part_folder import deliver, is_made, part_folder, part_of
from nomadiff.data.writing import store_entry
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.files import atomic_path, remove_leftovers, write_text
from nomadiff.interop.generators import Drawn, ImageGenerator
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.training.run_folder import versions

__all__ = ["METADATA_NAME", "synthesize"]

METADATA_NAME = "metadata.jsonl"
_RECORD = "nomadiff"  # the text chunk of a PNG that says how it was made


def synthesize(
    generator: ImageGenerator,
    out: str | Path,
    count: int,
    *,
    first: int = 0,
    resolution: int | None = None,
    processes: Processes | None = None,
) -> Path:
    """Draw a set of images into an EDM-layout folder or zip.

    Work goes on in ``<out>.part``: run the same call again after an interruption, and what is there stays. Beside the
    images lie ``dataset.json`` (classes), ``manifest.json`` (kind "synthetic", generator, seeds: the provenance that
    :class:`~nomadiff.data.image_source.ImageSource` keeps) and ``metadata.jsonl``, one line an image with seed and
    prompt, as Hugging Face's image folders and diffusers' training scripts read it. Every PNG also carries its line.

    Args:
        generator: where the images come from.
        out: folder, or a file that ends in ``.zip``; must be new.
        count: number of images.
        first: index of the first one: sets of one seed with other indices have no image in common.
        resolution: side in pixels to crop (the centred square) and resize (Lanczos) to; None keeps sizes.
        processes: share the work among these.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is taken, another process makes it, or its ``.part`` holds another job half done.
        Interrupted: Ctrl-C; what is done is kept.
    """
    out = Path(out)
    if count < 1 or first < 0:
        raise UsageError(f"need a count of at least 1 and a first index of at least 0, got {count} and {first}")
    job = _Job(generator, out, range(first, first + count), resolution, processes)
    if not job.is_main:
        job.wait()  # until the folder is claimed
        job.draw()
        job.wait()
        job.wait()  # the folder stays until every process is done
        return out
    with part_folder(out, job.recipe()):
        job.wait()
        job.draw()
        job.wait()
        deliver(out, job.write)
        job.wait()
    return out


class _Job:
    """One set in progress."""

    def __init__(
        self,
        generator: ImageGenerator,
        out: Path,
        indices: range,
        resolution: int | None,
        processes: Processes | None,
    ) -> None:
        self.generator, self.out, self.indices, self.resolution = generator, out, indices, resolution
        self.images = part_of(out) / "images"
        self.rank, self.count = (processes.rank, processes.count) if processes else (0, 1)
        self.is_main = self.rank == 0
        self.wait = processes.barrier if processes else lambda: None

    def recipe(self) -> dict[str, Any]:
        """The settings for the manifest; they must not change when the work continues."""
        recipe = {"first": self.indices.start, "count": len(self.indices), "resolution": self.resolution}
        return {**self.generator.facts(), **recipe}

    def draw(self) -> None:
        """Draw what is missing of this process' share."""
        if is_made(self.out):
            return
        share = -(-len(self.indices) // self.count)
        mine = self.indices[self.rank * share : (self.rank + 1) * share]
        missing = {index for index in mine if not self._is_done(index)}
        with progress_bar("synthesize", total=len(mine), done=len(mine) - len(missing), show=self.is_main) as advance:
            size = self.generator.batch_size
            for batch in (mine[start : start + size] for start in range(0, len(mine), size)):
                wanted = missing.intersection(batch)
                if not wanted:
                    continue
                # a batch of another size rounds differently: a continued set equals an unbroken one
                for index, drawn in zip(batch, self.generator.draw(batch)):
                    if index in wanted:
                        self._save(index, drawn)
                advance(len(wanted))

    def _path(self, index: int) -> Path:
        place = index - self.indices.start
        return self.images / f"{place // 1000:05d}" / f"img{place:08d}.png"

    def _save(self, index: int, drawn: Drawn) -> None:
        pixels = drawn.pixels[..., 0] if drawn.pixels.shape[2] == 1 else drawn.pixels
        image = fit_square(Image.fromarray(np.ascontiguousarray(pixels)), self.resolution)
        if image.width != image.height:
            raise UsageError(f"images are {image.width}x{image.height} pixels, not square; pass --resolution N")
        about = PngImagePlugin.PngInfo()
        about.add_text(_RECORD, json.dumps({**drawn.record, "label": drawn.label}))
        path = self._path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        # renamed when it is whole; not flushed to disk one by one: what a power cut tears is noticed and drawn again
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            image.save(temporary, "PNG", pnginfo=about)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise NomadiffError(f"{path}: cannot be written ({error.strerror or error})") from error

    def _is_done(self, index: int) -> bool:
        path = self._path(index)
        if not path.exists():
            return False
        try:
            _record_of(path)
        except (OSError, ValueError, SyntaxError, KeyError):
            path.unlink()
            return False
        return True

    def write(self, path: Path) -> None:
        """Write the set as a folder or a zip, with what belongs to the whole of it."""
        names, lines, labels = [], [], []
        for index in self.indices:
            image = self._path(index)
            record = _record_of(image)
            label = record.pop("label")
            name = image.relative_to(self.images).as_posix()
            names.append(name)
            labels.append(label)
            lines.append(json.dumps({"file_name": name, **record}, ensure_ascii=False))
        known = all(label is not None for label in labels)
        listed = labels_json(zip(names, labels) if known else None, self.generator.class_names)
        texts = {
            LABELS_NAME: json.dumps(listed, indent=2, ensure_ascii=False) + "\n",
            METADATA_NAME: "\n".join(lines) + "\n",
            MANIFEST_NAME: json.dumps(self._manifest(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        }
        if path.suffix.lower() == ".zip":
            with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for name in names:
                    store_entry(archive, name, (self.images / name).read_bytes())
                for name, text in texts.items():
                    store_entry(archive, name, text.encode())
            return
        for name, text in texts.items():
            write_text(self.images / name, text)
        for leftover in self.images.rglob(".img*.tmp"):
            leftover.unlink()
        remove_leftovers(self.images, below=True)
        os.sync()  # one flush for all files
        self.images.rename(path)

    def _manifest(self) -> dict[str, Any]:
        resize = _RESIZE if self.resolution else None
        return {"kind": "synthetic", **self.recipe(), "resize": resize, "versions": versions()}


_RESIZE = "largest centred square, Lanczos (Pillow)"


def _record_of(path: Path) -> dict[str, Any]:
    """The record in an image; reading the whole file finds truncated ones."""
    with Image.open(path) as image:
        image.load()
        return json.loads(image.info[_RECORD])
