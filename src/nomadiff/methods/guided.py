"""What methods share that improve a base of another method: one budget for both trainings, one folder for both."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.source_union import union
from nomadiff.errors import UsageError
from nomadiff.files import COMMAND_NAME
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.methods.method import Method
from nomadiff.methods.sda import SDA
from nomadiff.models.model import Model
from nomadiff.monitoring.settings import Monitoring
from nomadiff.monitoring.validation import set_apart
from nomadiff.processes import join_processes
from nomadiff.training.config import RunConfig
from nomadiff.training.presets import AnyPreset
from nomadiff.training.run_folder import RunFolder

__all__ = ["BASES", "GuidedMethod", "joined"]

BASES: dict[str, type[Method]] = {method.name: method for method in (DM, SDA, CASD)}
"""The methods that can train a base, by name."""


class GuidedMethod(Method):
    """A base, trained by another method, and a second training that makes the guidance.

    The budget is that of both trainings together, so that arms of one budget saw as many images: the base method with
    the same budget is the control, the base trained for as many more images as the second training takes. The weight
    is fixed (1 unless another is passed): no image is needed to choose it.

    Args:
        preset, class_labels, training: as for every method. ``budget`` counts the images of both trainings.
        base: the method that trains the base: "dm" (real images only), "sda" (all images as if they were real) or
            "casd" (all images with source labels; the real source is guided).

    Raises:
        UsageError: no such preset, training field or base method, or a value out of range.
    """

    base_folder: ClassVar[str] = "base"

    def __init__(
        self, preset: AnyPreset = "cifar10", *, class_labels: bool = False, base: str = "dm", **training: Any
    ) -> None:
        super().__init__(preset, class_labels=class_labels, **training)
        if base not in BASES:
            raise UsageError(f"unknown base method '{base}': choose one of {', '.join(BASES)}")
        self.control = base
        self.labels_sources, self.uses_synthetic = BASES[base].labels_sources, BASES[base].uses_synthetic
        if base != "dm":
            self.name = f"{base}+{self.name}"
            self.description = f"{self.description} The base is trained by {base}."

    def base_method(self, budget: int) -> Method:
        """The method that trains the base on ``budget`` images."""
        options = {**asdict(self.training), "budget": budget}
        return BASES[self.control](self.preset, class_labels=self.class_labels, **options)

    def training_mix(self, mix: SourceMix) -> SourceMix:
        """The sources that the base trains on."""
        return self.base_method(self.training.budget).training_mix(mix)

    def recipe(self, mix: SourceMix) -> RunConfig:
        """The base's configuration, with the budget of both trainings.

        Raises:
            UsageError: as for every method, or the budget is too small for two trainings.
        """
        config = super().recipe(mix)
        self.budgets(config)
        return config

    def budgets(self, recipe: RunConfig) -> tuple[int, int]:
        """Images that the base and the second training see.

        Raises:
            UsageError: the second training leaves the base without a batch.
        """
        total, second = self.training.steps * self.training.batch, self.second_budget(recipe)
        if total - second < self.training.batch:
            raise UsageError(
                f"{self.name}: of a budget of {total:,} images the second training takes {second:,}, which leaves no "
                "batch for the base: pass a larger --budget"
            )
        return total - second, second

    def second_budget(self, recipe: RunConfig) -> int:
        """Images that the second training sees."""
        raise NotImplementedError

    def fit(
        self,
        mix: SourceMix,
        out: str | Path,
        *,
        device: str | None = None,
        description: str | None = None,
        monitoring: Monitoring | None = None,
    ) -> Model:
        """Train the base in ``out/base``, then what guides it; continue what is half done.

        It is the base's training that ``monitoring`` looks at.

        Raises:
            UsageError: ``out`` holds a base of another budget that was already guided, the base is to stop early, or
                as for every method.
            NomadiffError, Interrupted: see :func:`~nomadiff.training.loop.train`.
        """
        out = Path(out)
        if monitoring is not None and monitoring.early_stop is not None:
            raise UsageError(
                f"{self.name} divides one budget between two trainings: --early-stop is for methods of one"
            )
        monitoring, mix = set_apart(monitoring, mix, self.training.seed)
        recipe = self.recipe(mix)
        first, second = self.budgets(recipe)
        self.check_folder(out, recipe, mix)
        base = self.base_method(first).fit(
            mix, out / self.base_folder, device=device, description=description, monitoring=monitoring
        )
        return self.guide(base, self.training_mix(mix), out, budget=second, device=device)

    def guide(
        self, base: Model, mix: SourceMix, out: Path, *, budget: int | None = None, device: str | None = None
    ) -> Model:
        """Make the guided model in ``out`` of a base that lies in ``out/base``; continue what is half done.

        Args:
            base: the base.
            mix: what it was trained on.
            out: the folder.
            budget: images of the second training; None takes a share of the base's budget.
            device: as for :meth:`fit`.
        """
        raise NotImplementedError

    def under_own_name(self, model: Model, out: Path) -> Model:
        """The model with this method's name in its ``guidance.json``, for what another function has made."""
        guidance, place = model.guidance, model.device
        if guidance is None or guidance.method == self.name:
            return model
        processes = join_processes(str(place))
        if processes.is_main:
            replace(guidance, method=self.name).write(out)
        processes.barrier()
        return Model.load(out, device=place)

    def check_folder(self, out: Path, recipe: RunConfig, mix: SourceMix) -> None:
        """Refuse to prolong a base that was guided already: base and guidance would not fit any more."""
        config = out / self.base_folder / "config.json"
        if not config.exists():
            return
        inside = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        if not inside - {self.base_folder, COMMAND_NAME}:
            return
        found, budget = RunFolder(config.parent).config().training.budget, self.budgets(recipe)[0]
        if found != budget:
            raise UsageError(
                f"{out} holds a model whose base saw {found:,} images; of this budget it sees {budget:,}. A guided "
                "model cannot be prolonged: choose another --out"
            )

    def budget_note(self, recipe: RunConfig) -> str:
        """How the budget is divided, and which method is the control."""
        first, second = self.budgets(recipe)
        return (
            f"{first:,} images trained the base and {second:,} what guides it; its control is {self.control}, which "
            f"saw all {first + second:,}."
        )


def joined(mix: SourceMix) -> ImageSource:
    """All images of a mix as one source called "real"."""
    return union("real", mix.sources) if len(mix.sources) > 1 else mix.sources[0]
