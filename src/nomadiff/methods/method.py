"""The base class of algorithms: ``G = A(D)``, here ``method.fit(mix, out) -> Model``."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.models.model import Model
from nomadiff.monitoring.monitor import Monitor
from nomadiff.monitoring.settings import Monitoring
from nomadiff.monitoring.validation import set_apart, told_in_recipe
from nomadiff.pictures import html_table
from nomadiff.processes import join_processes
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.presets import AnyPreset, preset_named, presets_that_fit
from nomadiff.training.run_folder import RunFolder
from nomadiff.training.settings import TrainingConfig

__all__ = ["Method"]


class Method:
    """An algorithm that turns images into a model of the real ones.

    Methods differ in two answers only: which sources they train on (:meth:`training_mix`) and whether the network is
    told where an image came from (:attr:`labels_sources`). Architecture, budget and everything else are equal, as the
    CASD paper compares them (section 4.1). Those that guide a base divide one budget between two trainings
    (:class:`~nomadiff.methods.guided.GuidedMethod`).

    Args:
        preset: name of a preset or a :class:`~nomadiff.training.presets.Preset`; or a network of your own, see
            :func:`~nomadiff.training.presets.preset_named`.
        class_labels: condition on the images' class labels as well (every source must have them).
        **training: fields of :class:`~nomadiff.training.settings.TrainingConfig` to change, such as
            ``budget=5_000_000``.

    Attributes:
        name: what command lines and tables call it.
        description: one sentence for reports.
        labels_sources: whether the network is told where an image came from.
        uses_synthetic: whether it trains on synthetic sources at all.
        control: of a method that guides a base, the base's method; empty for others.
        base_folder: where in the folder of a model the run of its (base) network lies.
        shares_work: whether several processes can train it together.

    Raises:
        UsageError: no such preset or training field, or a value out of range.
    """

    name: str
    description: str = ""
    labels_sources: bool = False
    uses_synthetic: bool = True
    control: str = ""
    base_folder: ClassVar[str] = "."
    shares_work: ClassVar[bool] = True

    def __init__(
        self,
        preset: AnyPreset = "cifar10",
        *,
        class_labels: bool = False,
        **training: Any,
    ) -> None:
        self.preset = preset_named(preset)
        self.class_labels = class_labels
        known = [field.name for field in fields(TrainingConfig)]
        if "floor" in training:
            raise UsageError(f"method {self.name} has no floor: --floor belongs to --method ambient")
        if unknown := sorted(training.keys() - set(known)):
            raise UsageError(f"unknown training option {', '.join(unknown)}: choose among {', '.join(known)}")
        self.training = replace(self.preset.training, **training)
        if self.training.ema_stds and self.training.ema_half_life != self.preset.training.ema_half_life:
            raise UsageError("ema_half_life is of the average that ema_stds replaces, and this preset has ema_stds")
        if self.training.class_dropout not in (0, self.preset.training.class_dropout) and not class_labels:
            raise UsageError("class_dropout hides class labels, and none are asked for: pass --class-labels too")

    def _settings(self) -> dict[str, Any]:
        """What it trains, for whoever looks at it."""
        network, training = self.preset.network, self.training
        seen = {"network": network.architecture, "budget": f"{training.budget:,}", "batch": training.batch}
        seen |= {"learning rate": training.learning_rate, "precision": training.precision, "seed": training.seed}
        return {**seen, **({"classes": "conditional"} if self.class_labels else {})}

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self._settings().items())
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        about = (type(self).__doc__ or "").partition("\n")[0]
        rows = [{"setting": name, "value": value} for name, value in self._settings().items()]
        return html_table(rows, f"{type(self).__name__}: {about}", head=False)

    def training_mix(self, mix: SourceMix) -> SourceMix:
        """The sources this method trains on."""
        return mix

    def recipe(self, mix: SourceMix) -> RunConfig:
        """The configuration of a run on ``mix``, without starting it.

        Raises:
            UsageError: the network cannot take these images, class labels are asked for and some source has none, or
                the method tells sources apart and there is one.
        """
        return self.recipe_of(self.training_mix(mix))

    def recipe_of(self, used: SourceMix) -> RunConfig:
        """As :meth:`recipe`, of what :meth:`training_mix` gave."""
        if self.labels_sources and len(used.names) < 2:
            raise UsageError(f"{self.name} tells real images from synthetic ones: add --synthetic, or use --method dm")
        if self.class_labels and used.without_classes is not None:
            raise UsageError(f"class labels are asked for, but {used.without_classes}")
        network = replace(self.preset.network, resolution=used.resolution, channels=used.channels)
        if self.training.augment > 0 and used.latents is not None:
            raise UsageError("augmentations move pixels, and these are latents: pass --augment 0")
        if self.training.augment > 0 and not network.augment_dim:
            raise UsageError("augment > 0 needs a network with an augmentation label; this preset's has none")
        try:
            network.validate()
        except UsageError as error:
            fitting = presets_that_fit(used.resolution, used.channels)
            raise UsageError(f"{error}; presets that fit: {', '.join(fitting) or 'none'}") from error
        return RunConfig(
            method=self.name,
            network=network,
            training=self.training,
            sampler=self.preset.sampler,
            sigma_data=self.preset.sigma_data,
            source_names=tuple(used.names),
            shares=tuple(float(share) for share in used.shares),
            sources=len(used.names) if self.labels_sources else 0,
            classes=used.classes if self.class_labels else 0,
            latents=used.latents,
            class_names=used.class_names if self.class_labels else (),
            class_counts=used.class_counts if self.class_labels else (),
        )

    def monitored(
        self, mix: SourceMix, monitoring: Monitoring | None
    ) -> tuple[RunConfig, SourceMix, Monitoring | None]:
        """The recipe of a training that is monitored, what of ``mix`` it learns from, and the settings with the images
        that are set apart for them.

        Raises:
            UsageError, DataError: as :meth:`recipe` and :func:`~nomadiff.monitoring.validation.set_apart`.
        """
        watched, mix = set_apart(monitoring, mix, self.training.seed)
        config = self.recipe(mix)
        return config if watched is None else replace(config, validation=told_in_recipe(watched)), mix, watched

    def part_of_budget(self, share: float) -> int:
        """Images of a training beside the main one that is ``share`` of that one's, in whole batches."""
        options = self.training
        return max(round(options.steps * share / (1 + share)), 1) * options.batch

    def check_folder(self, out: Path, recipe: RunConfig, mix: SourceMix) -> None:
        """Refuse a folder that holds what this method cannot continue; before anything is trained.

        Raises:
            UsageError: it does.
        """
        RunFolder(out).check(recipe, mix.provenance)

    def budget_note(self, recipe: RunConfig) -> str:
        """How the budget is divided, for reports; empty for a single training."""
        return ""

    def found(self, out: Path) -> str:
        """What it found out about the images in ``out`` before it trained, in a sentence; empty if nothing."""
        return ""

    def fit(
        self,
        mix: SourceMix,
        out: str | Path,
        *,
        device: str | None = None,
        description: str | None = None,
        monitoring: Monitoring | None = None,
    ) -> Model:
        """Train on ``mix`` until the budget is seen; continue if ``out`` holds the same run half done.

        Args:
            mix: one real source and any number of synthetic ones.
            out: the run folder.
            device: "cpu", "cuda", ...; None takes a GPU if there is one.
            description: words for the progress bar.
            monitoring: what to look at on the way: held-out loss, samples, scores, a report, trackers. A share of the
                real images that it asks for is set apart and not trained on.

        Returns:
            The trained model (EMA weights).

        Raises:
            UsageError, NomadiffError, Interrupted: see :func:`nomadiff.training.loop.train`.
        """
        config, mix, monitoring = self.monitored(mix, monitoring)
        folder, used = RunFolder(out), self.training_mix(mix)
        processes = join_processes(device)
        monitor = None if monitoring is None else Monitor(monitoring, config, used, folder, processes)
        train(config, used, folder, processes, description=description, observer=monitor)
        processes.barrier()
        return Model.load(folder.path, device=processes.device)
