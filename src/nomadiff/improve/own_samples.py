"""The internal synthetic set of SIMS: drawn shard by shard, so that an interrupted drawing goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.image_set import ImageSet
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.latents import write_latents
from nomadiff.data.manifest import read_manifest
from nomadiff.data.writing import write_images
from nomadiff.errors import UsageError
from nomadiff.files import remove_leftovers, remove_tree
from nomadiff.memory import gathered
from nomadiff.models.model import Model
from nomadiff.models.provenance import origins
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = ["OwnSamples", "own_count"]

_OF_MACHINE = ("versions", "precision")


class OwnSamples:
    """``count`` samples of a model, kept in ``folder/own`` while they are needed.

    Samples depend on (seed, index) and shards have fixed borders, so the set is the same however often it is
    interrupted.

    Those of a model of latents stay latents: they are what its copy learns from.

    Args:
        model: the model to draw from; of a CASD model the real source is drawn.
        folder: where to keep them.
        count: how many.
        seed: seed of the set.
        shard: samples to a file; by default the model's default batch size.
    """

    def __init__(self, model: Model, folder: Path, count: int, seed: int, *, shard: int | None = None) -> None:
        self.model, self.count, self.seed = model, count, seed
        self.path = folder / "own"
        self.archive = folder / "own.zip"
        self._size = shard or model.default_batch_size
        self._space = model.known.latents

    def draw(self, processes: Processes) -> None:
        """Draw the shards that are missing. The images are shared out among the processes, the main one writes.

        What a stopped drawing of another model, seed or count left is drawn anew.

        Raises:
            DataError: a shard is damaged.
        """
        known = self.manifest()

        def of_shard(start: int) -> dict[str, Any]:
            return {**known, "first": start, "count": self._length(start)}

        starts = []
        for start in range(0, self.count, self._size):
            path = self._shard(start)
            found = (read_manifest(path) or {}) if path.exists() else {}
            # not by versions and precision of the machine that drew it: processes of one group may differ in them
            if any(found.get(name) != value for name, value in of_shard(start).items() if name not in _OF_MACHINE):
                starts.append(start)
        processes.barrier()  # every process has looked before the main one writes
        if processes.is_main:
            remove_leftovers(self.path)
        done = self.count - sum(self._length(start) for start in starts)
        with progress_bar("own samples", total=self.count, done=done, show=processes.is_main) as advance:
            for start in starts:
                count = self._length(start)
                batches = self.model.sample_batches(
                    count,
                    self.seed,
                    first=start,
                    batch_size=self._size,
                    processes=processes,
                    decode=self._space is None,
                )
                images = torch.cat(list(batches))
                if processes.is_main:
                    indices = range(start, start + count)
                    labels = self.model.drawn_classes(indices, self.seed)
                    self._shard(start).unlink(missing_ok=True)
                    self._write(self._shard(start), [images], count, labels, of_shard(start))
                advance(count)
        processes.barrier()

    def open(self) -> ImageSource:
        """Read them as a source called "own".

        Raises:
            DataError: a shard is damaged.
        """
        labels: list[Tensor] = []

        def batches() -> Iterator[Tensor]:
            for shard in self.shards():
                labels.extend([] if shard.labels is None else [shard.labels])
                yield shard.images

        provenance = {"kind": "synthetic", "spec": "own samples", "manifest": self.manifest()}
        images = gathered(batches(), self.count)
        names = self.model.class_names
        return ImageSource("own", images, torch.cat(labels) if labels else None, provenance, self._space, names)

    def shards(self) -> Iterator[ImageSet]:
        """The shards in order, one in memory at a time.

        Raises:
            DataError: a shard is damaged.
        """
        yield from (read_images(self._shard(start), latents=True) for start in range(0, self.count, self._size))

    def drop(self, *, keep: bool) -> None:
        """Delete the shards; with ``keep`` the set is written to ``own.zip`` first."""
        if not self.path.exists():
            return
        if keep and not self.archive.exists():
            labels = self.model.drawn_classes(range(self.count), self.seed)
            images = (shard.images for shard in self.shards())
            self._write(self.archive, images, self.count, labels, self.manifest())
        remove_tree(self.path)

    def _shard(self, start: int) -> Path:
        return self.path / f"{start:09d}.{'npz' if self._space is None else 'zip'}"

    def _length(self, start: int) -> int:
        return min(self._size, self.count - start)

    def _write(self, path: Path, images: Iterable[Tensor], count: int, labels: Tensor | None, manifest: dict) -> None:
        names = self.model.class_names
        if self._space is None:
            write_images(path, images, count, labels=labels, class_names=names, manifest=manifest)
        else:  # in half precision, as every set of latents is held
            halves = (batch.half() for batch in images)
            write_latents(path, halves, count, space=self._space, labels=labels, class_names=names, manifest=manifest)

    def manifest(self) -> dict[str, Any]:
        """What is stored with the samples: their model, count and seed."""
        return self.model.manifest(self.count, self.seed)


def own_count(model: Model, asked: int | None) -> int:
    """How many own samples to draw: as many as asked, or as many as the model had real images.

    Raises:
        UsageError: nothing is asked, and no run folder around the model says how many real images it had.
    """
    if asked is not None:
        return asked
    count = next((source.get("count") for source in origins(model) if source.get("label") == 0), None)
    if count is not None:
        return count
    raise UsageError(f"{model.name} does not say how many real images it was trained on: pass --synthetic-count")
