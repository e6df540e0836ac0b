"""A model: a denoiser, what is known of it, the recipe it was trained with if there is one, and how to draw from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
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
from nomadiff.models.hub import HUB_PREFIX, fetch_model
from nomadiff.models.own_denoiser import DenoiserFacts, fingerprint
from nomadiff.models.sample_set import write_sample_set
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.networks.build import build_filled
from nomadiff.pictures import html_table
from nomadiff.processes import Processes, join_processes
from nomadiff.progress import progress_bar
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig, draw, drawn_classes, to_uint8
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.run_folder import RunFolder, load_tensors, versions

__all__ = ["Model", "as_model"]

_MOST_PARTS = 32  # models within one guided model, its guided parts counted


class Part(Protocol):
    """Something a guided model is made of: a model, a discriminator."""

    @property
    def sha256(self) -> str: ...


class Model:
    """A model that can be sampled: what ``method.fit`` returns and what a run folder holds.

    It is one network or, if it is guided, a denoiser made of several models; every verb takes both.

    Of a denoiser of your own :meth:`from_denoiser` makes one.

    Args:
        denoiser: the denoiser, on the device it is to run on.
        known: what is known of it: its recipe, or as much as is known without; a guided model goes by its base's, under
            its own method name.
        path: the file it was loaded from: weights, or ``guidance.json``; None for one that lies in memory only.
        device: its device; None takes that of the denoiser's parameters.
        guidance: how a guided model is made, None for a single network.
        parts: what a guided model is made of, the base first.

    Raises:
        UsageError: nothing is known of the denoiser.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        known: Facts | None = None,
        path: Path | None = None,
        *,
        device: torch.device | None = None,
        guidance: GuidanceConfig | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        if known is None:
            raise UsageError("a denoiser alone is no model: Model.from_denoiser(D, shape=(C, H, W)) makes one of it")
        self.denoiser = denoiser
        self.known = known
        self._path = path
        self.device = device or _device_of(denoiser)
        self.guidance = guidance
        self.parts = tuple(parts)

    @classmethod
    def from_denoiser(
        cls,
        denoiser: Denoiser,
        *,
        shape: tuple[int, int, int],
        sigma: tuple[float, float] = (0.002, 80.0),
        sources: Sequence[str] = (),
        classes: int | Sequence[str] = 0,
        name: str = "denoiser",
        sha256: str | None = None,
        device: str | torch.device | None = None,
    ) -> Model:
        """A model of any denoiser, such as a function: it is sampled, guided and evaluated like others.

        What trains a copy of it (improve, shift) needs a network that nomadiff can build again, and says so.

        Args:
            denoiser: ``D(x, sigma)``, see :class:`~nomadiff.denoiser.Denoiser`; called once, to see whether it is one.
            shape: ``(C, S, S)`` of one image in [-1, 1], C 1 or 3.
            sigma: lowest and highest noise level it knows.
            sources: names of its source labels, the real one first, if it takes ``source=``.
            classes: names or number of its classes, if it takes ``class_label=``.
            name: what tables and manifests call it.
            sha256: hash of its weights, if you know one; otherwise it is told by the estimates it gives.
            device: where it computes; None asks its parameters, and takes the CPU for what has none.

        Raises:
            UsageError: it is no denoiser of such images.
        """
        if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2] or shape[1] < 1:
            raise UsageError(f"shape must be (1 or 3, S, S), got {tuple(shape)}")
        if not callable(denoiser):
            raise UsageError(f"a {type(denoiser).__name__} is no denoiser: it cannot be called as D(x, sigma)")
        if device is None:
            parameter = next(denoiser.parameters(), None) if isinstance(denoiser, torch.nn.Module) else None
            device = "cpu" if parameter is None else parameter.device
        if isinstance(denoiser, torch.nn.Module):
            denoiser = denoiser.to(device).eval()
        known = DenoiserFacts.of(name, shape, sigma, sources, classes)
        print_of = fingerprint(denoiser, known, torch.device(device))
        model = cls(denoiser, known, device=torch.device(device))
        model.sha256 = sha256 or print_of
        return model

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
            path: run folder, ``model.safetensors``, a snapshot file, a folder with ``guidance.json``, or
                ``hf:USER/NAME`` of a model that was exported to the hub.
            snapshot: images seen of the snapshot to take instead of the final weights.
            vae: where the autoencoder of a model of latents lies, if it is not where the recipe says.
            device: None takes a GPU if there is one.

        Raises:
            DataError: not a model, damaged, or unfinished (the message lists its snapshots).
            UsageError: no such snapshot or device, or an autoencoder for a model of images.
        """
        torch_device = join_processes(device).device
        try:
            where = fetch_model(str(path)) if str(path).startswith(HUB_PREFIX) else Path(path)
            return cls._load(where, torch_device, itertools.count(1), snapshot=snapshot, vae=vae)
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
        cls,
        guidance: GuidanceConfig,
        base: Model,
        auxiliary: Model | Discriminator | None = None,
        *,
        path: Path | None = None,
    ) -> Model:
        """A guided model from models in memory.

        Args:
            guidance: how to combine them; its paths are not read.
            base: the base model.
            auxiliary: the second model or the discriminator, for kinds that have one.
            path: its ``guidance.json``, written or not; None if there is to be none.

        Raises:
            UsageError: the parts do not fit together.
        """
        denoiser, known = combine(guidance, base, auxiliary)
        parts = (base,) if auxiliary is None else (base, auxiliary)
        return cls(denoiser, known, path, device=base.device, guidance=guidance, parts=parts)

    def _facts(self) -> dict[str, Any]:
        known = self.known
        facts = {"method": known.method, "draws": "x".join(map(str, self.image_shape))}
        facts |= {"sources": ", ".join(known.source_names)} if known.sources else {}
        facts |= {"classes": str(known.classes)} if known.classes else {}
        facts |= {"guidance": f"{self.guidance.kind}, weight {self.guidance.weight:g}"} if self.guidance else {}
        told = f"{known.sampler.solver}, {known.sampler.steps} steps (NFE {self.nfe():g})"
        return {**facts, "sampler": told, "device": str(self.device), "from": self.name}

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name} {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        # facts only: to draw images costs minutes, and is asked for by name
        return html_table([{"": name, " ": value} for name, value in self._facts().items()], head=False)

    @property
    def recipe(self) -> RunConfig | None:
        """What it was trained with; None if nobody knows."""
        return self.known if isinstance(self.known, RunConfig) else None

    @property
    def config(self) -> RunConfig:
        """The recipe, for what cannot do without.

        Raises:
            UsageError: there is none.
        """
        if self.recipe is None:
            raise UsageError(f"{self.name} has no recipe: this needs a model that nomadiff has trained or imported")
        return self.recipe

    @property
    def is_stored(self) -> bool:
        """Whether it lies in a file."""
        return self._path is not None

    @property
    def path(self) -> Path:
        """The file it lies in.

        Raises:
            UsageError: it lies in memory only.
        """
        if self._path is None:
            raise UsageError(f"{self.name} lies in no file: this needs a model that nomadiff has stored")
        return self._path

    @property
    def name(self) -> str:
        """What messages call it: where it lies, or what it is."""
        if self._path is not None:
            return str(self._path)
        what = self.denoiser if hasattr(self.denoiser, "__qualname__") else type(self.denoiser)
        return f"model '{self.known.method}' ({what.__qualname__})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what is drawn: an image, or a latent."""
        return self.known.shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        if self.known.latents is None:
            return self.shape
        side = self.shape[1] * self.known.latents.factor
        return 3, side, side

    @property
    def draws_latents(self) -> bool:
        """Whether what the network draws has to be decoded to be an image."""
        return self.known.latents is not None or self.shape[0] not in (1, 3)

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
            UsageError: it is a guided model of several, or a denoiser of your own.
        """
        return self.network_for("this")

    def network_for(self, verb: str) -> EDMDenoiser:
        """As :attr:`network`; ``verb`` is what needs it, for the message."""
        if isinstance(self.denoiser, EDMDenoiser) and self.recipe is not None:
            return self.denoiser
        if self.guidance is not None:
            raise UsageError(
                f"{self.name} is guided and has no single network: merge its parts (--space parameters) or distil it"
            )
        needs = f"{verb} needs an nn.Module it can copy and fine-tune"
        if not isinstance(self.denoiser, torch.nn.Module):
            raise UsageError(f"{needs}; this denoiser is {_kind(self.denoiser)}: {self.name}")
        raise UsageError(
            f"{needs} by a recipe; {self.name} has none: train its network with a method, such as "
            "CASD(network).fit(...), or import its weights"
        )

    def nfe(self, sampler: SamplerConfig | None = None) -> float:
        """Network evaluations for one image: the solver's calls, each counted by what it costs."""
        total = sum(evaluations_of(self.denoiser, sigma) for sigma in (sampler or self.known.sampler).called_levels())
        return int(total) if total == int(total) else round(total, 2)

    def source_index(self, source: int | str) -> int:
        """The label of a source given by name or number.

        Raises:
            UsageError: the model does not know it.
        """
        names = self.known.source_names
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
        if self.known.sources:
            return BoundDenoiser(self.denoiser, source=index)
        if index:
            raise UsageError(f"a {self.known.method} model has no source labels: it cannot draw source {source!r}")
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
        weights = class_weights(self.known, self.source_index(source), class_label=class_label, classes=classes)
        group = processes or Processes(0, 1, self.device)
        size = batch_size or self.default_batch_size
        with progress_bar(f"sample {self.known.method}", total=count, show=show and group.is_main) as advance:
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
                    config=sampler or self.known.sampler,
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
        if not self.known.classes:
            return None
        weights = class_weights(self.known, self.source_index(source), class_label=class_label, classes=classes)
        noise = SampleNoise(seed, indices)
        noise.normal(self.shape)  # the latent comes first in every stream
        return stored_labels(self.known, drawn_classes(noise, weights, len(indices)))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of label ``k`` of a sample set at index ``k``; None if classes are known by their numbers."""
        return self.known.stored_class_names

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
        used = sampler or self.known.sampler
        drawn = classes or ("real" if self.known.class_counts else "uniform")
        if class_label is not None:
            drawn = self.known.vocabulary[class_index(self.known, class_label)]
        return {
            "kind": "synthetic",
            "generator": self.known.method,
            "model_sha256": self.sha256,
            "source": self.known.source_names[self.source_index(source)],
            "seed": seed,
            "count": count,
            "sampler": used.to_dict(),
            "nfe": self.nfe(used),
            "trained_on": list(self.known.source_names),
            **({"classes": drawn} if self.known.classes else {}),
            **({"guidance": self.guidance.facts()} if self.guidance is not None else {}),
            **({"vae": self.known.latents.vae} if self.known.latents is not None else {}),
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


def as_model(model: Model | str | Path, verb: str, device: torch.device, *, vae: str | None = None) -> Model:
    """A model that a verb was given, or where one is stored.

    Args:
        model: the model, a path, or ``hf:USER/NAME``.
        verb: what needs it, for the message.
        device, vae: as for :meth:`Model.load`.

    Raises:
        UsageError: it is something else, such as a denoiser.
        DataError: as :meth:`Model.load`.
    """
    if isinstance(model, Model):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(
            f"{verb} takes a Model or where one is stored; of a denoiser "
            "Model.from_denoiser(D, shape=(C, H, W)) makes one"
        )
    return Model.load(model, vae=vae, device=device)


def _decoded_by(config: RunConfig, vae: str | None) -> RunConfig:
    """The recipe with its autoencoder elsewhere; a model of four channels that names none gets EDM2's space."""
    if vae is None:
        return config
    if config.latents is None and config.network.channels in (1, 3):
        raise UsageError("this is a model of images: it takes no autoencoder (--vae)")
    return replace(config, latents=replace(config.latents or LatentSpace(), vae=vae))


def _space_of(config: Facts) -> LatentSpace:
    if config.latents is None:
        raise UsageError(
            f"this model draws {config.shape[0]} channels and does not name the autoencoder that makes images "
            "of them: pass --vae"
        )
    return config.latents


def _kind(denoiser: Denoiser) -> str:
    kind = type(denoiser).__name__
    return "a function" if kind in ("function", "builtin_function_or_method", "method") else f"of the type {kind}"


def _device_of(denoiser: Denoiser) -> torch.device:
    if not isinstance(denoiser, torch.nn.Module):
        raise UsageError(f"this denoiser is {_kind(denoiser)} and has no parameters that tell its device: pass device=")
    return next(denoiser.parameters()).device
