"""A trained model: a denoiser, the recipe it was made with, and how to draw from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.writing import write_images
from nomadiff.denoiser import BoundDenoiser, Denoiser, EDMDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.processes import Processes, join_processes
from nomadiff.progress import progress_bar
from nomadiff.sampling.sampler import SamplerConfig, draw, to_uint8
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder, load_tensors, versions

__all__ = ["Model"]


class Model:
    """A model that can be sampled: what ``method.fit`` returns and what a run folder holds.

    Args:
        denoiser: the trained denoiser, on the device it is to run on.
        config: its recipe.
        path: the safetensors file its weights came from.
    """

    def __init__(self, denoiser: EDMDenoiser, config: RunConfig, path: Path) -> None:
        self.denoiser = denoiser
        self.config = config
        self.path = path

    @classmethod
    def load(cls, path: str | Path, *, snapshot: int | None = None, device: str | torch.device | None = None) -> Model:
        """Load a run folder, or one of its safetensors files (each carries its recipe).

        Args:
            path: run folder, ``model.safetensors`` or a snapshot file.
            snapshot: images seen of the snapshot to take instead of the final weights.
            device: None takes a GPU if there is one.

        Raises:
            DataError: not a model, damaged, or unfinished (the message lists its snapshots).
            UsageError: no such snapshot or device.
        """
        place = join_processes(device).device
        file = Path(path)
        if file.is_dir():
            folder = RunFolder(file)
            available = folder.snapshots()
            known = ", ".join(map(str, available)) or "none"
            if snapshot is not None and snapshot not in available:
                raise UsageError(f"{path} has no snapshot at {snapshot} images; it has: {known}")
            file = folder.model_path if snapshot is None else folder.snapshot_path(snapshot)
            if not file.exists():
                folder.config()  # says so if this is no run at all
                raise DataError(f"{path} is not finished: run its training command again, or take a snapshot ({known})")
        elif snapshot is not None:
            raise UsageError("a snapshot is chosen in a run folder; this is a single file")
        tensors, metadata = load_tensors(file)
        if "recipe" not in metadata:
            raise DataError(f"{file}: no nomadiff model (its metadata has no recipe)")
        config = RunConfig.from_dict(metadata["recipe"])
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and thrown away: leave no trace of it
            denoiser = config.build_denoiser()
        try:
            denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise DataError(f"{file}: its weights do not fit its recipe ({str(error).splitlines()[0]})") from error
        return cls(denoiser.to(place).eval().requires_grad_(False), config, file)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.denoiser.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        network = self.config.network
        return network.channels, network.resolution, network.resolution

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights file."""
        return sha256_of_file(self.path)

    def source_index(self, source: int | str) -> int:
        """The label of a source given by name or number.

        Raises:
            UsageError: the model does not know it.
        """
        names = self.config.source_names
        if isinstance(source, str) and source in names:
            source = names.index(source)
        if not isinstance(source, int) or not 0 <= source < len(names):
            listed = ", ".join(f"{index} = {name}" for index, name in enumerate(names))
            raise UsageError(f"unknown source '{source}': this model knows {listed}")
        return source

    def sampling_denoiser(self, source: int | str = 0) -> Denoiser:
        """The denoiser to sample with: ``D(x, sigma)`` with the source fixed, to "real" unless asked otherwise.

        Raises:
            UsageError: the source is unknown, or a synthetic one is asked of a model without source labels.
        """
        index = self.source_index(source)
        if self.config.sources:
            return BoundDenoiser(self.denoiser, source=index)
        if index:
            raise UsageError(f"a {self.config.method} model has no source labels: it cannot draw source {source!r}")
        return self.denoiser

    def sample(self, count: int, seed: int = 0, **options: Any) -> Tensor:
        """Draw ``count`` images; image ``i`` depends on ``(seed, i)`` only.

        Args:
            count: number of images.
            seed: seed of the set.
            **options: as for :meth:`sample_batches`.

        Returns:
            uint8 ``(count, C, H, W)`` on the CPU.
        """
        batches = list(self.sample_batches(count, seed, **options))
        return torch.cat(batches) if batches else torch.empty((0, *self.shape), dtype=torch.uint8)

    def sample_batches(
        self,
        count: int,
        seed: int = 0,
        *,
        source: int | str = 0,
        class_label: int | None = None,
        sampler: SamplerConfig | None = None,
        batch_size: int | None = None,
        processes: Processes | None = None,
        show: bool = False,
    ) -> Iterator[Tensor]:
        """Draw images a batch at a time, in order.

        Args:
            count: number of images.
            seed: seed of the set.
            source: name or label of the source to draw; the real one unless asked otherwise.
            class_label: class to draw from a class-conditional model; None draws classes uniformly.
            sampler: solver and steps; None takes the recipe's.
            batch_size: images solved together in a process; None chooses by their size.
            processes: share the work among these; every process gets every image.
            show: show a progress bar.

        Yields:
            uint8 ``(b, C, H, W)`` on the CPU.

        Raises:
            UsageError: unknown source or class.
        """
        if class_label is not None and not 0 <= class_label < self.config.classes:
            raise UsageError(f"class {class_label} is unknown: this model has {self.config.classes} classes")
        denoiser = self.sampling_denoiser(source)
        group = processes or Processes(0, 1, self.device)
        size = batch_size or self._comfortable_batch()
        with progress_bar(f"sample {self.config.method}", total=count, show=show and group.is_main) as advance:
            for start in range(0, count, size * group.count):
                stop = min(start + size * group.count, count)
                share = math.ceil((stop - start) / group.count)
                # the last batch may not divide: every process draws the same number, and the surplus is cut off
                first = start + group.rank * share
                indices = [min(index, stop - 1) for index in range(first, first + share)]
                (batch,) = draw(
                    denoiser,
                    self.shape,
                    indices,
                    seed=seed,
                    config=sampler or self.config.sampler,
                    batch_size=share,
                    device=self.device,
                    classes=self.config.classes,
                    class_label=class_label,
                )
                yield group.gather(to_uint8(batch)).cpu()[: stop - start]
                advance(stop - start)

    def _comfortable_batch(self) -> int:
        """Images that make good use of a device without filling it: a fixed number of pixels."""
        pixels = math.prod(self.shape)
        budget = 1 << (18 if self.device.type == "cpu" else 21)
        return max(8, min(1024, budget // pixels))

    def manifest(
        self, count: int, seed: int, source: int | str = 0, sampler: SamplerConfig | None = None
    ) -> dict[str, Any]:
        """What is written beside a sample set so that it can never be taken for real data by accident."""
        used = sampler or self.config.sampler
        return {
            "kind": "synthetic",
            "generator": self.config.method,
            "model_sha256": self.sha256,
            "source": self.config.source_names[self.source_index(source)],
            "seed": seed,
            "count": count,
            "sampler": used.to_dict(),
            "nfe": used.nfe,
            "trained_on": list(self.config.source_names),
            "versions": versions(),
        }

    def write_samples(
        self, path: str | Path, count: int, seed: int = 0, *, processes: Processes | None = None, **options: Any
    ) -> Tensor:
        """Draw ``count`` images into a folder or an EDM-layout ``.zip`` with its manifest.

        Args:
            path: where to; must not exist.
            count: number of images.
            seed: seed of the set.
            processes: share the work among these; the main one writes.
            **options: as for :meth:`sample_batches`.

        Returns:
            The first images (at most 64), uint8 ``(n, C, H, W)``, to look at.

        Raises:
            UsageError: ``path`` exists.
        """
        group = processes or Processes(0, 1, self.device)
        first: list[Tensor] = []
        drawn = self.sample_batches(count, seed, processes=group, show=True, **options)
        batches = (_noted(batch, first) for batch in drawn)
        if group.is_main:
            manifest = self.manifest(count, seed, options.get("source", 0), options.get("sampler"))
            write_images(path, batches, count, manifest=manifest)
        else:
            for _ in batches:
                pass
        group.barrier()
        return torch.cat(first)[:64] if first else torch.empty((0, *self.shape), dtype=torch.uint8)


def _noted(batch: Tensor, first: list[Tensor]) -> Tensor:
    """Pass a batch on, keeping it while fewer than 64 images are kept."""
    if sum(map(len, first)) < 64:
        first.append(batch)
    return batch
