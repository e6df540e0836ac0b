"""SIMS and Neon as algorithms ``G = A(D)``: a base model, improved by its own samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.improve.auxiliary import auxiliary_config, default_share
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.guided import GuidedMethod
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.training.config import RunConfig
from nomadiff.training.presets import AnyPreset

__all__ = ["SIMS", "Neon"]


class SIMS(GuidedMethod):
    """Self-improving diffusion models with synthetic data (Alemohammad et al. 2024, Algorithm 1).

    The base is trained, then :func:`~nomadiff.improve.improve.improve` does the rest: own samples, a copy fine-tuned on
    them, extrapolation away from it. Where nobody knows which images are real, ``base="sda"`` takes all for real, and
    SIMS is what keeps that from doing harm.

    Args:
        preset, options: as for every method that guides a base: class_labels, base, and fields of the training.
        improvement: settings of the improvement; by default weight 1 and no search, so that no reference is needed, and
            the training's seed. The budget of the fine-tuning is part of the method's; by default it has the share
            of the base's that SIMS took (:func:`~nomadiff.improve.auxiliary.default_share`).
        reference: what to choose weight and budget by, where the improvement leaves them open.
    """

    name = "sims"
    description = "SIMS: a base, extrapolated away from a copy of it that was fine-tuned on the base's own samples."

    def __init__(
        self,
        preset: AnyPreset = "cifar10",
        *,
        improvement: Improvement | None = None,
        reference: ReferenceSet | None = None,
        **options: Any,
    ) -> None:
        super().__init__(preset, **options)
        self.improvement = improvement or Improvement(weight=1.0, snapshots=1, seed=self.training.seed)
        if self.improvement.distil:
            raise UsageError(f"{self.name} has no budget for a distillation: improve its base with distil instead")
        self.reference = reference

    def second_budget(self, recipe: RunConfig) -> int:
        """Images of the fine-tuning."""
        budget = self.improvement.budget or self.part_of_budget(default_share(recipe))
        return auxiliary_config(recipe, replace(self.improvement, budget=budget)).training.budget

    def guide(
        self, base: Model, mix: SourceMix, out: Path, *, budget: int | None = None, device: str | None = None
    ) -> Model:
        """Improve a base that lies in ``out/base``; see :func:`~nomadiff.improve.improve.improve`."""
        settings = self.settings_for(base)
        settings = settings if budget is None else replace(settings, budget=budget)
        return self.under_own_name(improve(base, out, settings, reference=self.reference, device=device).model, out)

    def settings_for(self, base: Model) -> Improvement:
        """The settings of this base's improvement."""
        return replace(self.improvement, space="function")


class Neon(SIMS):
    """Neon (Alemohammad et al. 2025): the same two sets of weights, extrapolated in parameter space.

    One network is sampled, at the base's cost. The copy must stay near the base, so the fine-tuning takes a tenth of
    the base's learning rate unless told otherwise, as Neon does on CIFAR-10.
    """

    name = "neon"
    description = "Neon: the parameters of a base, extrapolated away from a copy fine-tuned on the base's own samples."

    def settings_for(self, base: Model) -> Improvement:
        """The settings of this base's improvement."""
        options = base.config.training
        rate = self.improvement.learning_rate or options.learning_rate_after(options.budget) / 10
        return replace(self.improvement, space="parameters", learning_rate=rate)
