"""A set of synthetic images with its provenance, made image by image: killed at any moment, it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from nomadiff.data.decoding import fit_square
from nomadiff.data.labels import LABELS_NAME
from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.data.writing import refuse_existing
from nomadiff.errors import Interrupted, NomadiffError, UsageError
from nomadiff.files import atomic_path, read_json, write_json, write_text
from nomadiff.interop.generators import Drawn, ImageGenerator
from nomadiff.interop.part_folder import JOB_NAME, claim, part_of
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.training.run_folder import RunFolder, versions

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
    :class:`~nomadiff.data.sources.ImageSource` keeps) and ``metadata.jsonl``, one line an image with seed and prompt,
    as Hugging Face's image folders and diffusers' training scripts read it. Every PNG also carries its line.

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
        UsageError: ``out`` is taken, or holds another job half done.
        Interrupted: Ctrl-C; what is done is kept.
    """
    out = Path(out)
    if count < 1 or first < 0:
        raise UsageError(f"need a count of at least 1 and a first index of at least 0, got {count} and {first}")
    refuse_existing(out)
    job = _Job(generator, out, range(first, first + count), resolution, processes)
    try:
        if not job.is_main:
            job.wait()  # until the folder is claimed
            job.draw()
            job.wait()
            return out
        with RunFolder(job.part).lock():
            job.begin()
            job.wait()
            job.draw()
            job.wait()
            job.finish()
        if out.is_dir():
            (out / ".lock").unlink(missing_ok=True)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped, what is done is kept in {job.part}: run the same command again to go on", signal.SIGINT
        ) from None
    return out


class _Job:
    """One set on its way."""

    def __init__(
        self,
        generator: ImageGenerator,
        out: Path,
        indices: range,
        resolution: int | None,
        processes: Processes | None,
    ) -> None:
        self.generator, self.out, self.indices, self.resolution = generator, out, indices, resolution
        self.part = part_of(out)
        self.rank, self.count = (processes.rank, processes.count) if processes else (0, 1)
        self.is_main = self.rank == 0
        self.wait = processes.barrier if processes else lambda: None

    def begin(self) -> None:
        """Claim the working folder, or make sure that it holds the same job."""
        recipe = {"first": self.indices.start, "count": len(self.indices), "resolution": self.resolution}
        claim(self.part, {**self.generator.facts(), **recipe})

    def draw(self) -> None:
        """Draw what is missing of this process' share."""
        share = -(-len(self.indices) // self.count)
        mine = self.indices[self.rank * share : (self.rank + 1) * share]
        missing = [index for index in mine if not self._is_done(index)]
        with progress_bar("synthesize", total=len(mine), done=len(mine) - len(missing), show=self.is_main) as advance:
            for batch in _batches(missing, self.generator.batch_size):
                for index, drawn in zip(batch, self.generator.draw(batch)):
                    self._save(index, drawn)
                advance(len(batch))

    def _path(self, index: int) -> Path:
        place = index - self.indices.start
        return self.part / f"{place // 1000:05d}" / f"img{place:08d}.png"

    def _save(self, index: int, drawn: Drawn) -> None:
        pixels = drawn.pixels[..., 0] if drawn.pixels.shape[2] == 1 else drawn.pixels
        image = fit_square(Image.fromarray(np.ascontiguousarray(pixels)), self.resolution)
        if image.width != image.height:
            raise UsageError(f"images are {image.width}x{image.height} pixels, not square; pass --resolution N")
        about = PngImagePlugin.PngInfo()
        about.add_text(_RECORD, json.dumps({**drawn.record, "label": drawn.label}))
        path = self._path(index)
        path.parent.mkdir(exist_ok=True)
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

    def finish(self) -> None:
        """Write what belongs to the whole set, and give it its name."""
        names, lines, labels = [], [], []
        for index in self.indices:
            path = self._path(index)
            record = _record_of(path)
            label = record.pop("label")
            name = path.relative_to(self.part).as_posix()
            names.append(name)
            labels.append(label)
            lines.append(json.dumps({"file_name": name, **record}, ensure_ascii=False))
        known = all(label is not None for label in labels)
        listed = [[name, label] for name, label in zip(names, labels)] if known else None
        write_json(self.part / LABELS_NAME, {"labels": listed})
        write_text(self.part / METADATA_NAME, "\n".join(lines) + "\n")
        write_json(self.part / MANIFEST_NAME, self._manifest())
        extras = [LABELS_NAME, METADATA_NAME, MANIFEST_NAME]
        if self.out.suffix.lower() == ".zip":
            with atomic_path(self.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for name in [*names, *extras]:
                    archive.write(self.part / name, name)
            shutil.rmtree(self.part)
            return
        for leftover in self.part.glob("**/.*.tmp"):
            leftover.unlink()
        if self.out.exists():
            self.out.rmdir()  # empty, or refused at the start
        self.part.rename(self.out)
        (self.out / JOB_NAME).unlink()

    def _manifest(self) -> dict[str, Any]:
        recipe = read_json(self.part / JOB_NAME)
        return {"kind": "synthetic", **recipe, "resize": _RESIZE if self.resolution else None, "versions": versions()}


_RESIZE = "largest centred square, Lanczos (Pillow)"


def _record_of(path: Path) -> dict[str, Any]:
    """What an image says of itself; reading it whole finds torn files."""
    with Image.open(path) as image:
        image.load()
        return json.loads(image.info[_RECORD])


def _batches(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Runs of at most ``size`` indices that follow one another."""
    batch: list[int] = []
    for index in indices:
        if batch and (len(batch) == size or index != batch[-1] + 1):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
