"""A model: a denoiser, what is known of it, the recipe it was trained with if there is one, and how to draw from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nomadiff.denoiser import Denoiser, EDMDenoiser, LabelTensors, OwnDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.models.class_choice import class_index
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.drawable import Drawable
from nomadiff.models.foreign import foreign
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig, combine
from nomadiff.models.hub import HUB_PREFIX, fetch_model
from nomadiff.models.own_denoiser import DenoiserFacts, described, fingerprint, require_copyable, with_contract
from nomadiff.models.sample_set import write_sample_set
from nomadiff.models.weights import read_weights
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.pictures import html_table
from nomadiff.processes import Processes, join_processes
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.run_folder import versions

__all__ = ["Model", "as_model"]

_MOST_PARTS = 32  # models within one guided model, its guided parts counted


class Part(Protocol):
    """Something a guided model is made of: a model, a discriminator."""

    @property
    def sha256(self) -> str: ...


class Model(Drawable):
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
        super().__init__(denoiser, known, device or _device_of(denoiser))
        self._path = path
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
        settings: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
    ) -> Model:
        """A model of any denoiser, such as a function: it is sampled, guided and evaluated like others.

        What trains a copy of it (improve, shift) needs an ``nn.Module`` whose class is at the top of a module, so that
        it can be built again from class, ``settings`` and weights; its ``forward`` begins with ``x, sigma``.

        Args:
            denoiser: ``D(x, sigma)``, see :class:`~nomadiff.denoiser.Denoiser`; called once, to see whether it is one.
            shape: ``(C, S, S)`` of one image in [-1, 1], C 1 or 3.
            sigma: lowest and highest noise level it knows.
            sources: names of its source labels, the real one first, if it takes ``source=``.
            classes: names or number of its classes, if it takes ``class_label=``.
            name: what tables and manifests call it.
            sha256: hash of its weights, if you know one; otherwise it is told by the estimates it gives.
            settings: keywords that its class is built with again, plain values; for what trains a copy.
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
        network = None
        if isinstance(denoiser, torch.nn.Module):
            denoiser = denoiser.to(device).eval()
            with suppress(UsageError) if settings is None else nullcontext():
                network = described(denoiser, shape, settings)
        known = DenoiserFacts.of(name, shape, sigma, sources, classes, network)
        given = with_contract(denoiser, known.sources, known.classes)
        print_of = fingerprint(given, known, torch.device(device))
        model = cls(given, known, device=torch.device(device))
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
        if (reason := foreign(path)) is not None:
            raise DataError(reason)
        if (path / GUIDANCE_NAME).exists():
            if snapshot is not None:
                raise UsageError(f"{path} is a guided model: it has no snapshots of its own")
            return cls._load_guided(path, device, opened, vae)
        denoiser, recipe, file = read_weights(path, snapshot=snapshot, vae=vae)
        return cls(denoiser.to(device).eval().requires_grad_(False), recipe, file, device=device)

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
    def buildable(self) -> RunConfig | DenoiserFacts:
        """What is known of it where that says how its network is built.

        Raises:
            UsageError: it does not.
        """
        if isinstance(self.known, DenoiserFacts) and self.known.network is not None:
            return self.known
        return self.config

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
        inner: Any = self.denoiser
        if isinstance(inner, (OwnDenoiser, LabelTensors)):
            inner = inner.network if isinstance(inner, OwnDenoiser) else inner.denoiser
        what = inner if hasattr(inner, "__qualname__") else type(inner)
        return f"model '{self.known.method}' ({what.__qualname__})"

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder of this model's latents, loaded on first use; a guided model uses its base's.

        Raises:
            UsageError: it is a model of images, or diffusers is not installed.
            DataError: it cannot be loaded, or is another one than the model was trained with.
        """
        return self.parts[0].autoencoder if self.parts and isinstance(self.parts[0], Model) else super().autoencoder

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
            UsageError: it is a guided model of several, or a denoiser of your own that cannot be copied.
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
        if isinstance(self.denoiser, OwnDenoiser) and isinstance(self.known, DenoiserFacts):
            if not self.is_stored:  # a stored one was built from its class already
                require_copyable(self.denoiser, self.known, self.device, verb)
            return self.denoiser
        needs = f"{verb} needs an nn.Module it can copy and fine-tune"
        if not isinstance(self.denoiser, torch.nn.Module):
            inner = self.denoiser.denoiser if isinstance(self.denoiser, LabelTensors) else self.denoiser
            raise UsageError(f"{needs}; this denoiser is {_kind(inner)}: {self.name}")
        raise UsageError(
            f"{needs} by a recipe; {self.name} has none: train its network with a method, such as "
            "CASD(network).fit(...), or import its weights"
        )

    def manifest(
        self,
        count: int,
        seed: int,
        source: int | str = 0,
        sampler: SamplerConfig | None = None,
        class_label: int | str | None = None,
        classes: str | None = None,
        precision: str = "auto",
    ) -> dict[str, Any]:
        """The manifest of a sample set; it keeps the set from being taken for real data by accident."""
        used, halved = sampler or self.known.sampler, self.drawing_precision(precision)
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
            **({"precision": halved} if halved != "fp32" else {}),
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
        group = processes or Processes(0, 1, self.device)
        write_sample_set(self, self.manifest, Path(path), count, seed, group, preview, options)


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


def _kind(denoiser: Denoiser) -> str:
    kind = type(denoiser).__name__
    return "a function" if kind in ("function", "builtin_function_or_method", "method") else f"of the type {kind}"


def _device_of(denoiser: Denoiser) -> torch.device:
    if not isinstance(denoiser, torch.nn.Module):
        raise UsageError(f"this denoiser is {_kind(denoiser)} and has no parameters that tell its device: pass device=")
    return next(denoiser.parameters()).device
