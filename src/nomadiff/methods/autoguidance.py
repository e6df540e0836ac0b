"""Autoguidance: extrapolation away from a smaller, less trained model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.guidance.strength import Interval
from nomadiff.methods.guided import BASES, GuidedMethod
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.training.config import RunConfig
from nomadiff.training.presets import AnyPreset

__all__ = ["Autoguidance"]


class Autoguidance(GuidedMethod):
    """Extrapolation away from a smaller model that was trained less on the same images (Karras et al. 2024b).

    Args:
        preset, options: as for every method that guides a base: class_labels, base, and fields of the training.
        weight: the paper's guidance minus 1.
        width: the auxiliary's channels as a share of the base's.
        share: its budget as a share of the base's.
        interval: noise levels at which it is called; None for all.

    Raises:
        UsageError: ``width`` or ``share`` is not above 0 and at most 1, or the network is one's own, of one width.
    """

    name = "autoguidance"
    description = "Autoguidance: a base, extrapolated away from a smaller network that was trained less on its images."

    def __init__(
        self,
        preset: AnyPreset = "cifar10",
        *,
        weight: float = 1.0,
        width: float = 0.5,
        share: float = 0.25,
        interval: Interval | None = None,
        **options: Any,
    ) -> None:
        super().__init__(preset, **options)
        if not 0 < width <= 1 or not 0 < share <= 1:
            raise UsageError(
                f"width and share of the auxiliary must lie above 0 and at most at 1, got {width}, {share}"
            )
        if self.preset.network.is_own and width != 1:
            raise UsageError("autoguidance cannot make a network of your own narrower: pass width=1")
        self.weight, self.width, self.share, self.interval = weight, width, share, interval

    def second_budget(self, recipe: RunConfig) -> int:
        """Images of the smaller network's training."""
        return self.part_of_budget(self.share)

    def guide(
        self, base: Model, mix: SourceMix, out: Path, *, budget: int | None = None, device: str | None = None
    ) -> Model:
        """Train the smaller network in ``out/auxiliary``."""
        options = base.config.training
        network = replace(self.preset.network, model_channels=round(self.preset.network.model_channels * self.width))
        training = {**asdict(self.training), "budget": budget or max(round(options.budget * self.share), options.batch)}
        smaller = BASES[self.control](replace(self.preset, network=network), class_labels=self.class_labels, **training)
        auxiliary = smaller.fit(mix, out / "auxiliary", device=device, description="train the smaller network")
        guidance = GuidanceConfig(
            "extrapolation",
            self.weight,
            "base/model.safetensors",
            "auxiliary/model.safetensors",
            self.interval,
            method=self.name,
        )
        guidance.write(out)
        return Model.guided(guidance, base, auxiliary, path=out / GUIDANCE_NAME)
