"""Autoguidance: extrapolation away from a smaller, less trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from nomadiff.data.sources import SourceMix
from nomadiff.errors import UsageError
from nomadiff.guidance.guided import Interval
from nomadiff.methods.method import Method
from nomadiff.methods.sims import fit_base
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.training.presets import Preset

__all__ = ["Autoguidance"]


class Autoguidance(Method):
    """Extrapolation away from a smaller model that was trained less on the same images (Karras et al. 2024b).

    Args:
        preset, class_labels, **training: as for every method: the base's.
        weight: the paper's guidance minus 1.
        width: the auxiliary's channels as a share of the base's.
        share: its budget as a share of the base's.
        interval: noise levels at which it is called; None for all.

    Raises:
        UsageError: ``width`` or ``share`` is not above 0 and at most 1.
    """

    name: ClassVar[str] = "autoguidance"

    def __init__(
        self,
        preset: str | Preset = "cifar10",
        *,
        class_labels: bool = False,
        weight: float = 1.0,
        width: float = 0.5,
        share: float = 0.25,
        interval: Interval | None = None,
        **training: Any,
    ) -> None:
        super().__init__(preset, class_labels=class_labels, **training)
        if not 0 < width <= 1 or not 0 < share <= 1:
            raise UsageError(
                f"width and share of the auxiliary must lie above 0 and at most at 1, got {width}, {share}"
            )
        self.weight, self.width, self.share, self.interval = weight, width, share, interval

    def fit(
        self, mix: SourceMix, out: str | Path, *, device: str | None = None, description: str | None = None
    ) -> Model:
        """Train both networks, in ``out/base`` and ``out/auxiliary``; continue what is half done."""
        out = Path(out)
        base = fit_base(self, mix, out / "base", device=device, description=description)
        network = replace(self.preset.network, model_channels=round(self.preset.network.model_channels * self.width))
        lesser = Method(replace(self.preset, network=network, training=self.training), class_labels=self.class_labels)
        budget = max(round(self.training.budget * self.share), self.training.batch)
        lesser.training = replace(self.training, budget=budget)
        auxiliary = fit_base(lesser, mix, out / "auxiliary", device=device, description="train the lesser model")
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
