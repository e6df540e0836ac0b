"""The internal synthetic set of SIMS: drawn shard by shard, so that an interrupted drawing goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from nomadiff.data.images import read_images
from nomadiff.data.sources import ImageSource
from nomadiff.data.writing import write_images
from nomadiff.methods.model import Model
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = ["OwnSamples"]


class OwnSamples:
    """``count`` samples of a model, kept in ``folder/own`` while they are needed.

    Samples depend on (seed, index) and shards have fixed borders, so the set is the same however often it is
    interrupted.

    Args:
        model: the model to draw from; of a CASD model the real source is drawn.
        folder: where to keep them.
        count: how many.
        seed: seed of the set.
    """

    def __init__(self, model: Model, folder: Path, count: int, seed: int) -> None:
        self.model, self.count, self.seed = model, count, seed
        self.path = folder / "own"
        self.archive = folder / "own.zip"
        self._size = model.comfortable_batch

    def draw(self, processes: Processes) -> None:
        """Draw the shards that are missing. The images are shared out among the processes, the main one writes."""
        starts = [start for start in range(0, self.count, self._size) if not self._shard(start).exists()]
        processes.barrier()  # every process has looked before the main one writes
        if processes.is_main and self.path.exists():
            for torn in self.path.glob(".*.tmp"):
                torn.unlink()  # of a process that was killed while it wrote
        done = self.count - sum(self._length(start) for start in starts)
        with progress_bar("own samples", total=self.count, done=done, show=processes.is_main) as advance:
            for start in starts:
                count = self._length(start)
                batches = self.model.sample_batches(
                    count, self.seed, first=start, batch_size=self._size, processes=processes
                )
                images = torch.cat(list(batches))
                if processes.is_main:
                    indices = range(start, start + count)
                    write_images(
                        self._shard(start),
                        [images],
                        count,
                        labels=self.model.drawn_classes(indices, self.seed),
                        manifest=self._manifest(first=start),
                    )
                advance(count)
        processes.barrier()

    def open(self) -> ImageSource:
        """Read them as a source called "own".

        Raises:
            DataError: a shard is damaged.
        """
        parts = [read_images(self._shard(start)) for start in range(0, self.count, self._size)]
        labels = [part.labels for part in parts if part.labels is not None]
        provenance = {"kind": "synthetic", "spec": "own samples", "manifest": self._manifest()}
        return ImageSource(
            "own", torch.cat([part.images for part in parts]), torch.cat(labels) if labels else None, provenance
        )

    def drop(self, *, keep: bool) -> None:
        """Delete the shards; with ``keep`` the set is written to ``own.zip`` first."""
        if not self.path.exists():
            return
        if keep and not self.archive.exists():
            starts = range(0, self.count, self._size)

            def images() -> Iterator[Tensor]:
                yield from (read_images(self._shard(start)).images for start in starts)

            labels = self.model.drawn_classes(range(self.count), self.seed)
            write_images(self.archive, images(), self.count, labels=labels, manifest=self._manifest())
        shutil.rmtree(self.path)

    def _shard(self, start: int) -> Path:
        return self.path / f"{start:09d}.npz"

    def _length(self, start: int) -> int:
        return min(self._size, self.count - start)

    def _manifest(self, **more: int) -> dict:
        return {**self.model.manifest(self.count, self.seed), **more}
