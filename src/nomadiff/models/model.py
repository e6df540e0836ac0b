"""A trained model: a denoiser, the recipe it was made with, and how to draw from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import BoundDenoiser, Denoiser, EDMDenoiser
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.guidance.guided import evaluations_of
from nomadiff.models.class_choice import class_index, class_weights, stored_labels
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.foreign import foreign
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig, combine
from nomadiff.models.sample_set import write_sample_set
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.networks.build import build_filled
from nomadiff.processes import Processes, join_processes
from nomadiff.progress import progress_bar
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig, draw, drawn_classes, to_uint8
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder, load_tensors, versions

__all__ = ["Model"]

_MOST_PARTS = 32  # models within one guided model, its guided parts counted


class Part(Protocol):
    """Something a guided model is made of: a model, a discriminator."""

    @property
    def sha256(self) -> str: ...


class Model:
    """A model that can be sampled: what ``method.fit`` returns and what a run folder holds.

    It is one network or, if it is guided, a denoiser made of several models; every verb takes both.

    Args:
        denoiser: the denoiser, on the device it is to run on.
        config: its recipe; a guided model goes by its base's, under its own method name.
        path: the file it was loaded from: weights, or ``guidance.json``.
        device: its device; None takes that of the denoiser's parameters.
        guidance: how a guided model is made, None for a single network.
        parts: what a guided model is made of, the base first.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: RunConfig,
        path: Path,
        *,
        device: torch.device | None = None,
        guidance: GuidanceConfig | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.denoiser = denoiser
        self.config = config
        self.path = path
        self.device = device or _device_of(denoiser)
        self.guidance = guidance
        self.parts = tuple(parts)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        snapshot: int | None = None,
        vae: str | None = None,
        device: str | torch.device | None = None,
    ) -> Model:
        """Load a run folder, one of its safetensors files (each carries its recipe), or a guided model's folder.

        Args:
            path: run folder, ``model.safetensors``, a snapshot file, or a folder with ``guidance.json``.
            snapshot: images seen of the snapshot to take instead of the final weights.
            vae: where the autoencoder of a model of latents lies, if it is not where the recipe says.
            device: None takes a GPU if there is one.

        Raises:
            DataError: not a model, damaged, or unfinished (the message lists its snapshots).
            UsageError: no such snapshot or device, or an autoencoder for a model of images.
        """
        torch_device = join_processes(device).device
        try:
            return cls._load(Path(path), torch_device, itertools.count(1), snapshot=snapshot, vae=vae)
        except OSError as error:
            raise DataError(f"{printable(str(path), 200)}: cannot be read ({error.strerror or error})") from error

    @classmethod
    def _load(
        cls,
        path: Path,
        device: torch.device,
        opened: Iterator[int],
        *,
        snapshot: int | None = None,
        vae: str | None,
    ) -> Model:
        """As :meth:`load`; ``opened`` counts the models that one guided model is made of."""
        if next(opened) > _MOST_PARTS:
            raise DataError(f"{printable(str(path), 200)}: part of a model of more than {_MOST_PARTS}, or of itself")
        file = path
        if (reason := foreign(file)) is not None:
            raise DataError(reason)
        if (file / GUIDANCE_NAME).exists():
            if snapshot is not None:
                raise UsageError(f"{path} is a guided model: it has no snapshots of its own")
            return cls._load_guided(file, device, opened, vae)
        if file.is_dir():
            folder = RunFolder(file)
            available = folder.snapshots()
            known = ", ".join(map(str, available)) or "none"
            if snapshot is not None and snapshot not in available:
                raise UsageError(f"{path} has no snapshot at {snapshot} images; it has: {known}")
            file = folder.model_path if snapshot is None else folder.snapshot_path(snapshot)
            if not file.exists():
                for table, what in (("improve.json", "improvement"), ("shift.json", "shift")):
                    if (folder.path / table).exists():
                        raise DataError(f"{path} is an unfinished {what}: run its command again")
                _require_run(folder)
                raise DataError(f"{path} is not finished: run its training command again, or take a snapshot ({known})")
        elif snapshot is not None:
            raise UsageError("a snapshot is chosen in a run folder; this is a single file")
        try:
            tensors, metadata = load_tensors(file)
        except DataError as error:
            if (file.parent / "config.json").exists():  # the model of a run: its state or last snapshot gives it again
                raise DataError(f"{error}: run the training command again, which makes it anew") from error
            raise
        if "recipe" not in metadata:
            raise DataError(
                f"{file}: not a model of nomadiff (no recipe in it); another tool's is imported first (nomadiff import)"
            )
        try:
            config = RunConfig.from_dict(metadata["recipe"])
            config.network.validate()
        except NomadiffError as error:
            raise DataError(f"{file}: {error}") from error
        config = _decoded_by(config, vae)
        try:
            denoiser = build_filled(config.build_denoiser, tensors)
        except DataError as error:
            raise DataError(f"{file}: its weights do not fit its recipe ({error})") from error
        return cls(denoiser.to(device).eval().requires_grad_(False), config, file, device=device)

    @classmethod
    def _load_guided(cls, folder: Path, device: torch.device, opened: Iterator[int], vae: str | None) -> Model:
        guidance = GuidanceConfig.read(folder)
        base = cls._load(folder / guidance.base, device, opened, vae=vae)
        auxiliary: Model | Discriminator | None = None
        if guidance.auxiliary is not None:
            if guidance.kind == "discriminator":
                auxiliary = Discriminator.load(folder / guidance.auxiliary, device=device)
            else:
                auxiliary = cls._load(folder / guidance.auxiliary, device, opened, vae=None)
        return cls.guided(guidance, base, auxiliary, path=folder / GUIDANCE_NAME)

    @classmethod
    def guided(
        cls, guidance: GuidanceConfig, base: Model, auxiliary: Model | Discriminator | None = None, *, path: Path
    ) -> Model:
        """A guided model from models in memory.

        Args:
            guidance: how to combine them; its paths are not read.
            base: the base model.
            auxiliary: the second model or the discriminator, for kinds that have one.
            path: its ``guidance.json``, written or not.

        Raises:
            UsageError: the parts do not fit together.
        """
        denoiser, config = combine(guidance, base, auxiliary)
        parts = (base,) if auxiliary is None else (base, auxiliary)
        return cls(denoiser, config, path, device=base.device, guidance=guidance, parts=parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what the network draws: an image, or a latent."""
        network = self.config.network
        return network.channels, network.resolution, network.resolution

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        if self.config.latents is None:
            return self.shape
        side = self.shape[1] * self.config.latents.factor
        return 3, side, side

    @property
    def draws_latents(self) -> bool:
        """Whether what the network draws has to be decoded to be an image."""
        return self.config.latents is not None or self.config.network.channels not in (1, 3)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder of this model's latents, loaded on first use; a guided model uses its base's.

        Raises:
            UsageError: it is a model of images, or diffusers is not installed.
            DataError: it cannot be loaded, or is another one than the model was trained with.
        """
        if self.parts and isinstance(self.parts[0], Model):
            return self.parts[0].autoencoder
        space = _space_of(self.config)
        found = Autoencoder.load(space.vae, sha256=space.vae_sha256, device=self.device)
        if (found.channels, found.factor) != (space.channels, space.factor):
            raise DataError(
                f"{space.vae}: {found.channels} channels of {found.factor} pixels a side; this model's latents have "
                f"{space.channels} of {space.factor}"
            )
        return found

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights file; for a guided model of everything it is made of, wherever that lies."""
        if self.guidance is None:
            return sha256_of_file(self.path)
        content = [self.guidance.facts(), [part.sha256 for part in self.parts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def network(self) -> EDMDenoiser:
        """The single network this model is, to fine-tune or to convert.

        Raises:
            UsageError: it is a guided model of several.
        """
        if not isinstance(self.denoiser, EDMDenoiser):
            raise UsageError(
                f"{self.path} is guided and has no single network: merge its parts (--space parameters) or distil it"
            )
        return self.denoiser

    def nfe(self, sampler: SamplerConfig | None = None) -> float:
        """Network evaluations for one image: the solver's calls, each counted by what it costs."""
        total = sum(evaluations_of(self.denoiser, sigma) for sigma in (sampler or self.config.sampler).called_levels())
        return int(total) if total == int(total) else round(total, 2)

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
        return torch.cat(batches) if batches else torch.empty((0, *self.image_shape), dtype=torch.uint8)

    def sample_batches(
        self,
        count: int,
        seed: int = 0,
        *,
        source: int | str = 0,
        class_label: int | str | None = None,
        classes: str | None = None,
        sampler: SamplerConfig | None = None,
        batch_size: int | None = None,
        first: int = 0,
        processes: Processes | None = None,
        show: bool = False,
        decode: bool = True,
    ) -> Iterator[Tensor]:
        """Draw images a batch at a time, in order.

        Args:
            count: number of images.
            seed: seed of the set.
            first: index of the first of them within the set.
            source: name or label of the source to draw; the real one unless asked otherwise.
            class_label, classes: the one class to draw from a class-conditional model, or how often to draw which, see
                :func:`~nomadiff.models.class_choice.class_weights`; by default as the source's training images have
                them.
            sampler: solver and steps; None takes the recipe's.
            batch_size: images solved together in a process; None chooses by their size.
            processes: share the work among these; every process gets every image.
            show: show a progress bar.
            decode: make images of what a model of latents draws; False leaves it as it is.

        Yields:
            uint8 ``(b, C, H, W)`` on the CPU; without ``decode`` float32 raw latents, as data sets hold them.

        Raises:
            UsageError: unknown source or class, or latents of an unknown autoencoder.
            DataError: the autoencoder cannot be loaded.
        """
        finish = self._decoded if decode else self._raw
        if decode and self.draws_latents:
            self.autoencoder  # noqa: B018 - loaded now: it may be missing, and sampling is expensive
        denoiser = self.sampling_denoiser(source)
        weights = class_weights(self.config, self.source_index(source), class_label=class_label, classes=classes)
        group = processes or Processes(0, 1, self.device)
        size = batch_size or self.default_batch_size
        with progress_bar(f"sample {self.config.method}", total=count, show=show and group.is_main) as advance:
            for start in range(0, count, size * group.count):
                stop = min(start + size * group.count, count)
                share = math.ceil((stop - start) / group.count)
                # the last batch may not divide: every process draws the same number, and the surplus is cut off
                mine = start + group.rank * share
                indices = [first + min(index, stop - 1) for index in range(mine, mine + share)]
                (batch,) = draw(
                    denoiser,
                    self.shape,
                    indices,
                    seed=seed,
                    config=sampler or self.config.sampler,
                    batch_size=share,
                    device=self.device,
                    class_weights=weights,
                )
                yield group.gather(finish(batch)).cpu()[: stop - start]
                advance(stop - start)

    def _decoded(self, drawn: Tensor) -> Tensor:
        """Images of what the network drew: uint8 on the model's device."""
        if not self.draws_latents:
            return to_uint8(drawn)
        return self.autoencoder.decode(self._raw(drawn)).to(self.device)

    def _raw(self, drawn: Tensor) -> Tensor:
        return _space_of(self.config).raw(drawn)

    def drawn_classes(
        self,
        indices: Sequence[int],
        seed: int,
        class_label: int | str | None = None,
        *,
        source: int | str = 0,
        classes: str | None = None,
    ) -> Tensor | None:
        """The class of each image that :meth:`sample` draws for these indices; None without class labels.

        Args:
            indices: which images of the set.
            seed: seed of the set.
            class_label, source, classes: as for :meth:`sample_batches`.

        Returns:
            int64 ``(len(indices),)``: labels as sample sets are stored with, see :attr:`class_names`.
        """
        if not self.config.classes:
            return None
        weights = class_weights(self.config, self.source_index(source), class_label=class_label, classes=classes)
        noise = SampleNoise(seed, indices)
        noise.normal(self.shape)  # the latent comes first in every stream
        return stored_labels(self.config, drawn_classes(noise, weights, len(indices)))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of label ``k`` of a sample set at index ``k``; None if classes are known by their numbers."""
        return self.config.stored_class_names

    @property
    def default_batch_size(self) -> int:
        """How many images are drawn at once unless the caller says: a fixed number of pixels, well below the memory."""
        pixels = math.prod(self.shape)
        budget = 1 << (18 if self.device.type == "cpu" else 21)
        return max(8, min(1024, budget // pixels))

    def manifest(
        self,
        count: int,
        seed: int,
        source: int | str = 0,
        sampler: SamplerConfig | None = None,
        class_label: int | str | None = None,
        classes: str | None = None,
    ) -> dict[str, Any]:
        """The manifest of a sample set; it keeps the set from being taken for real data by accident."""
        used = sampler or self.config.sampler
        drawn = classes or ("real" if self.config.class_counts else "uniform")
        if class_label is not None:
            drawn = self.config.vocabulary[class_index(self.config, class_label)]
        return {
            "kind": "synthetic",
            "generator": self.config.method,
            "model_sha256": self.sha256,
            "source": self.config.source_names[self.source_index(source)],
            "seed": seed,
            "count": count,
            "sampler": used.to_dict(),
            "nfe": self.nfe(used),
            "trained_on": list(self.config.source_names),
            **({"classes": drawn} if self.config.classes else {}),
            **({"guidance": self.guidance.facts()} if self.guidance is not None else {}),
            **({"vae": self.config.latents.vae} if self.config.latents is not None else {}),
            "versions": versions(),
        }

    def write_samples(
        self,
        path: str | Path,
        count: int,
        seed: int = 0,
        *,
        processes: Processes | None = None,
        preview: Callable[[Tensor], None] | None = None,
        **options: Any,
    ) -> None:
        """Draw ``count`` images into a folder or an EDM-layout ``.zip`` with its manifest.

        Work goes on in ``<path>.part``: run the same call again after an interruption, and what is there stays.

        Args:
            path: where to; must not exist.
            count: number of images.
            seed: seed of the set.
            processes: share the work among these; the main one writes.
            preview: called by the main process with the first images (at most 64), uint8 ``(n, C, H, W)``, when they
                are drawn and before ``path`` is there.
            **options: as for :meth:`sample_batches`.

        Raises:
            UsageError: ``path`` exists, another process makes it, or its ``.part`` holds another job half done.
            Interrupted: Ctrl-C; what is done is kept.
        """
        write_sample_set(self, Path(path), count, seed, processes or Processes(0, 1, self.device), preview, options)


def _require_run(folder: RunFolder) -> None:
    """Raise DataError unless the folder holds a run."""
    folder.config()


def _decoded_by(config: RunConfig, vae: str | None) -> RunConfig:
    """The recipe with its autoencoder elsewhere; a model of four channels that names none gets EDM2's space."""
    if vae is None:
        return config
    if config.latents is None and config.network.channels in (1, 3):
        raise UsageError("this is a model of images: it takes no autoencoder (--vae)")
    return replace(config, latents=replace(config.latents or LatentSpace(), vae=vae))


def _space_of(config: RunConfig) -> LatentSpace:
    if config.latents is None:
        raise UsageError(
            f"this model draws {config.network.channels} channels and does not name the autoencoder that makes images "
            "of them: pass --vae"
        )
    return config.latents


def _device_of(denoiser: Denoiser) -> torch.device:
    if not isinstance(denoiser, torch.nn.Module):
        raise UsageError(f"a {type(denoiser).__name__} has no parameters that tell its device: pass device=")
    return next(denoiser.parameters()).device
