"""Image methods as algorithms of a loop: each turns one generation's images into a model that can be sampled and kept.

Names are those of the two-dimensional algorithms (:mod:`nomadiff.plane.algorithms`). The same seed gives all algorithms
the same base model, so algorithms are compared on common random numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.source_union import union
from nomadiff.errors import UsageError
from nomadiff.files import remove_tree
from nomadiff.improve.own_samples import OwnSamples
from nomadiff.improve.settings import Improvement
from nomadiff.loops.algorithm import LoopData, LoopModel
from nomadiff.loops.seeds import derived
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.methods.method import Method
from nomadiff.methods.sda import SDA
from nomadiff.methods.sims import SIMS, Neon
from nomadiff.methods.source_guidance import SourceGuided, with_source_labels
from nomadiff.models.model import Model
from nomadiff.processes import join_processes
from nomadiff.training.loop import train
from nomadiff.training.presets import AnyPreset, preset_named
from nomadiff.training.run_folder import RunFolder

__all__ = [
    "IMAGE_ALGORITHMS",
    "ImageAlgorithm",
    "ImageCASD",
    "ImageCASDWithProvenance",
    "ImageModel",
    "ImageNeon",
    "ImageRealOnly",
    "ImageSIMS",
    "ImageSourceGuidance",
    "ImageStandard",
    "image_algorithm",
]

# What a seed is used for within one generation; every algorithm's base takes the first.
_BASE, _IMPROVEMENT, _OWN_SAMPLES, _SECOND = range(4)


class ImageModel:
    """A model of images for a loop: numpy samples, stored in the folder it was trained in.

    Args:
        model: what is sampled.
        base: the run folder of the network a warm start begins from.
    """

    def __init__(self, model: Model, base: Path) -> None:
        self.model = model
        self.base = base

    def sample(self, count: int, seed: int) -> np.ndarray:
        """``count`` images, uint8 ``(count, C, H, W)``; image ``i`` is a function of (seed, i)."""
        processes = join_processes(str(self.model.device))
        return self.model.sample(count, seed, processes=processes).numpy()

    def save(self, folder: Path) -> None:
        """Everything is in ``folder`` already; drop what only an interrupted training needs, the larger part of it."""
        for state in [path for path in folder.rglob("state") if path.is_dir()]:
            remove_tree(state)


class ImageAlgorithm:
    """Common base of the algorithms: a base model trained on everything as if it were real.

    Args:
        preset: name of a preset, or one.
        weight: guidance weight of those that have one; None takes 1.
        improvement: further settings of the fine-tuning, for those that have one; its weight and seed are not read.
        device: where to compute; None takes a GPU if there is one.
        **training: fields of :class:`~nomadiff.training.settings.TrainingConfig` to change. The seed is the loop's.

    Raises:
        UsageError: no such preset or option, or a weight for an algorithm that has none.
    """

    name: ClassVar[str]
    guided: ClassVar[bool] = False
    needs_real: ClassVar[bool] = False
    base_folder: ClassVar[str] = "."
    model_folder: ClassVar[str] = "."

    def __init__(
        self,
        preset: AnyPreset,
        *,
        weight: float | None = None,
        improvement: Improvement | None = None,
        device: str | None = None,
        **training: Any,
    ) -> None:
        if weight is not None and not self.guided:
            raise UsageError(f"{self.name} has no guidance weight; it was given {weight:g}")
        self.preset = preset_named(preset)
        settings = improvement or Improvement(snapshots=1)
        self.improvement = replace(settings, weight=1.0 if weight is None else weight) if self.guided else settings
        self.device = device
        self.training = {name: value for name, value in training.items() if name != "seed"}
        self._validate_training()

    def _validate_training(self) -> None:
        """Raise UsageError for a wrong training option now, not in the first generation."""
        DM(self.preset, **self.training)

    def fit(
        self, data: LoopData, *, seed: int, start: LoopModel | None = None, folder: Path | None = None
    ) -> ImageModel:
        """Train on one generation's images, uint8 ``(N, C, H, W)``; see :class:`~nomadiff.loops.algorithm.Algorithm`.

        Killed and called again with the same folder, it goes on from the last snapshot or finished stage.

        Raises:
            UsageError: no folder (networks of images are kept on disk), or nothing real where it is needed.
            NomadiffError, Interrupted: see :func:`~nomadiff.training.loop.train`.
        """
        if folder is None:
            raise UsageError("a loop of images is kept on disk: pass out= to run")
        if start is not None and not isinstance(start, ImageModel):
            raise UsageError("a warm start of images begins from a model of images")
        if data.real is None and self.needs_real:
            raise UsageError(f"{self.name} has nothing real to learn from in a fully synthetic loop")
        return ImageModel(self._model(data, seed, start, folder), folder / self.base_folder)

    def load(self, folder: Path) -> ImageModel:
        """Read a model of an earlier generation."""
        return ImageModel(Model.load(folder / self.model_folder, device=self.device), folder / self.base_folder)

    def mix(self, data: LoopData) -> SourceMix:
        """The sources the base model is trained on; the first is taken for real."""
        return SourceMix(*_sources(data))

    def method(self, mix: SourceMix) -> type[Method]:
        """How the base is trained: on all sources without telling them apart."""
        return SDA if len(mix.sources) > 1 else DM

    def _model(self, data: LoopData, seed: int, start: ImageModel | None, folder: Path) -> Model:
        mix = self.mix(data)
        return self._train(self.method(mix), mix, folder / self.base_folder, derived(seed, _BASE), start)

    def _options(self, seed: int) -> dict[str, Any]:
        return {**self.training, "seed": _short(seed)}

    def _train(
        self, method: type[Method], mix: SourceMix, folder: Path, seed: int, start: ImageModel | None = None
    ) -> Model:
        """``method.fit``, from another model's weights if there is a warm start."""
        algorithm = method(self.preset, **self._options(seed))
        config = algorithm.recipe(mix)
        processes = join_processes(self.device)
        weights = None if start is None else _weights(start)
        if weights is not None:
            weights = with_source_labels(weights, config)  # the first generation had none to tell apart
        train(config, algorithm.training_mix(mix), RunFolder(folder), processes, start_from=weights)
        return Model.load(folder, device=processes.device)


class ImageStandard(ImageAlgorithm):
    """Standard training: everything is taken for real."""

    name = "standard"


class ImageRealOnly(ImageAlgorithm):
    """Train on the real images alone: what knowing the provenance is worth without any method."""

    name = "real-only"
    needs_real = True

    def mix(self, data: LoopData) -> SourceMix:
        """The real images."""
        return SourceMix(_sources(data)[0])


class ImageCASDWithProvenance(ImageAlgorithm):
    """CASD that is told what is synthetic: earlier generations' images are source 1. Compare it with real-only."""

    name = "casd-provenance"
    needs_real = True

    def method(self, mix: SourceMix) -> type[Method]:
        """CASD, once there are two sources to tell apart."""
        return CASD if len(mix.sources) > 1 else DM


class ImageCASD(ImageAlgorithm):
    """CASD with the base's own samples as its synthetic source: a second network, trained from scratch on both.

    CASD in a loop in which it is unknown which training data is synthetic.
    """

    name = "casd"
    base_folder = "base"
    model_folder = "labelled"

    def _model(self, data: LoopData, seed: int, start: ImageModel | None, folder: Path) -> Model:
        base = super()._model(data, seed, start, folder)
        parts = self.mix(data).sources
        given = union("real", parts) if len(parts) > 1 else parts[0]
        count = self.improvement.synthetic_count or len(parts[0])
        own = OwnSamples(base, folder, count, derived(seed, _OWN_SAMPLES))
        processes = join_processes(self.device)
        own.draw(processes)
        model = self._train(CASD, SourceMix(given, [own.open()]), folder / self.model_folder, derived(seed, _SECOND))
        if processes.is_main:
            own.drop(keep=self.improvement.keep_synthetic)
        return model


class ImageSIMS(ImageAlgorithm):
    """SIMS Algorithm 1: the base, steered away from a copy of it that was fine-tuned on the base's own samples."""

    name = "sims"
    guided = True
    base_folder = "base"
    improved: ClassVar[type[SIMS]] = SIMS

    def _model(self, data: LoopData, seed: int, start: ImageModel | None, folder: Path) -> Model:
        base = super()._model(data, seed, start, folder)
        settings = replace(self.improvement, seed=_short(derived(seed, _IMPROVEMENT)))
        method = self.improved(self.preset, improvement=settings, **self._options(derived(seed, _BASE)))
        return method.guide(base, self.mix(data), folder, device=self.device)


class ImageNeon(ImageSIMS):
    """Neon: the same extrapolation in parameter space; one network is sampled."""

    name = "neon"
    improved = Neon


class ImageSourceGuidance(ImageSIMS):
    """Source guidance: a copy of the base that knows its own samples as source 1, steered from them to the real."""

    name = "source-guidance"
    improved = SourceGuided


IMAGE_ALGORITHMS: dict[str, type[ImageAlgorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        ImageStandard,
        ImageSIMS,
        ImageNeon,
        ImageSourceGuidance,
        ImageCASD,
        ImageCASDWithProvenance,
        ImageRealOnly,
    )
}
"""The algorithms by name. Accumulation is a kind of loop: any of these can be run in it."""


def image_algorithm(name: str) -> type[ImageAlgorithm]:
    """Look up an algorithm.

    Raises:
        UsageError: there is none of this name; the message lists them.
    """
    if name not in IMAGE_ALGORITHMS:
        raise UsageError(f"unknown algorithm '{name}': choose among {', '.join(IMAGE_ALGORITHMS)}")
    return IMAGE_ALGORITHMS[name]


def _sources(data: LoopData) -> tuple[ImageSource, list[ImageSource]]:
    """The source to take for real and the synthetic ones: at most one, of all generations."""
    made = [part for part in data.synthetic if len(part)]
    synthetic = [_source("synthetic", np.concatenate(made))] if made else []
    if data.real is not None:
        return _source("real", data.real), synthetic
    return synthetic[0], []


def _source(name: str, images: np.ndarray) -> ImageSource:
    facts = {"kind": name, "spec": "real images of the loop" if name == "real" else "earlier generations of the loop"}
    return ImageSource(name, torch.from_numpy(images), None, facts)


def _weights(model: ImageModel) -> dict[str, Tensor]:
    base = Model.load(model.base, device="cpu")
    return {name: value.detach() for name, value in base.network.state_dict().items()}


def _short(seed: int) -> int:
    """A seed for configuration files, which readers of JSON in other languages must not round."""
    return seed % (1 << 31)
