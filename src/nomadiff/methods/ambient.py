"""Ambient: a synthetic image teaches only under so much noise that nobody can tell it from a real one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.prepared import PreparedMethod
from nomadiff.methods.telling_apart import Judged, image_rows, judge_sources, judges, require_judge
from nomadiff.processes import Processes
from nomadiff.tables import Table, read_table
from nomadiff.training.config import RunConfig
from nomadiff.training.floors import with_floors
from nomadiff.training.loss import share_above
from nomadiff.training.presets import AnyPreset

__all__ = ["Ambient", "noise_floors"]

TOLERANCE = 0.05
"""What still counts as chance: of the judge's accuracy, and of its probability for an image."""


class Ambient(PreparedMethod):
    """All images, not told apart; a synthetic one teaches above its noise floor only (Daras et al. 2025, Ambient-o).

    Noise makes distributions alike. Above a floor sigma_min a synthetic image is as good as a real one, below it only
    real images teach: layout and variety are learned from all, detail from real ones. The network has no source label.
    How levels are drawn and the loss is weighted, so that every level counts as much as in EDM's training:
    :class:`~nomadiff.training.floors.NoiseFloors`.

    With ``floor="auto"`` a classifier that knows sigma learns to tell real from synthetic images
    (:func:`~nomadiff.methods.telling_apart.judge_sources`); every image is judged by one that has not seen it. The
    floor of a source is the smallest level from which on the classifier's accuracy (the probability that a real image
    looks more real than a synthetic one) is within 0.05 of chance, and two standard errors more. An image's floor
    is the smallest level from which on the classifier gives it 0.45 or more to be real, and never above its source's.
    ``out/preparation/floors.csv`` has all of them, ``floors.json`` the medians and accuracies too.

    Args:
        preset, class_labels, training: as for every method. ``budget`` counts the classifiers' images too.
        floor: "auto", or one sigma for all synthetic images: then nothing is judged, and all of the budget trains.
        share: the classifiers' budget as a share of the training's.

    Raises:
        UsageError: no such preset or training field, or a value out of range.
    """

    name = "ambient"
    description = "Trained on all images; a synthetic one only at noise levels at which it looks real."
    finds = "the classifiers that set the floors"

    def __init__(self, preset: AnyPreset = "cifar10", *, floor: float | str = "auto", **options: Any) -> None:
        super().__init__(preset, **options)
        if floor != "auto" and (isinstance(floor, str) or not 0 <= floor < float("inf")):
            raise UsageError(f"floor must be auto or a noise level sigma, not negative, got {floor}")
        self.floor = floor

    @property
    def prepares(self) -> bool:
        """Whether floors have to be found."""
        return self.floor == "auto"

    def parts(self, recipe: RunConfig) -> int:
        """Two judges for each synthetic source."""
        return judges(recipe)

    def recipe(self, mix: SourceMix) -> RunConfig:
        """As for every method that prepares.

        Raises:
            UsageError: as there, or the network has no encoder that could judge images.
        """
        config = super().recipe(mix)
        if self.prepares:
            require_judge(config, f"{self.name} (with --floor auto)")
        return config

    def training_mix(self, mix: SourceMix) -> SourceMix:
        """All images, with the floor that was given."""
        if self.floor == "auto":
            return mix
        floors = [torch.full((len(source),), float(self.floor)) for source in mix.sources[1:]]
        return with_floors(mix, floors, self.training)

    def prepared(self, mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> SourceMix:
        """Find a floor for every synthetic image."""

        def find() -> Table:
            return self._table(mix, judge_sources(mix, recipe, folder, budget, processes))

        rows = self.findings(folder / "floors.json", processes, find).rows
        floors = [
            torch.tensor([row["floor"] for row in rows if row["source"] == name], dtype=torch.float32)
            for name in mix.names[1:]
        ]
        return with_floors(mix, floors, self.training)

    def _table(self, mix: SourceMix, judged: list[Judged]) -> Table:
        """One row an image; per source the summary in the table's meta."""
        rows: list[dict[str, Any]] = []
        sources: dict[str, Any] = {}
        for source, each in zip(mix.sources[1:], judged):
            floors, of_source = noise_floors(each)
            above = share_above(floors, self.training.p_mean, self.training.p_std)
            sources[source.name] = {
                "median": float(floors.median()),
                "of_source": of_source,
                "always": float((floors == 0).double().mean()),
                "teaching": float(above.mean()),
                "levels": each.levels.tolist(),
                "accuracy": each.accuracy().tolist(),
            }
            rows += image_rows(source, floor=floors)
        return Table(rows, {"tolerance": TOLERANCE, "sources": sources})

    def found(self, out: Path) -> str:
        """The median floor of each source."""
        if not self.prepares:
            return ""
        path = out / "preparation" / "floors.json"
        told = [
            f"{name} {each['median']:.3g} (teaches at {each['teaching']:.0%} of the noise levels)"
            for name, each in read_table(path).meta["sources"].items()
        ]
        return f"noise floors, median: {', '.join(told)}; all of them in {path.with_suffix('.csv')}"


def noise_floors(judged: Judged) -> tuple[Tensor, float]:
    """The floor of each synthetic image, float32 ``(N,)``, and that of their source; 0 where they always teach.

    A floor lies at most at the highest level that was judged: hardly any training happens above it.
    """
    likely = judged.probability() >= 0.5 - TOLERANCE
    real, synthetic = len(judged.real), len(judged.synthetic)
    error = math.sqrt((real + synthetic + 1) / (12 * real * synthetic))  # of the accuracy, where it is chance
    alike = (judged.accuracy() <= 0.5 + TOLERANCE + 2 * error)[None]
    own, of_source = _from_on(likely, judged.levels), float(_from_on(alike, judged.levels))
    return own.clamp(max=of_source), of_source


def _from_on(good: Tensor, levels: Tensor) -> Tensor:
    """The smallest level from which on all are good, 0 if all are; the highest where even that is not."""
    count = good.int().flip(1).cumprod(1).sum(1)  # good levels at the upper end
    first = (len(levels) - count).clamp(max=len(levels) - 1)
    return torch.where(count == len(levels), 0.0, levels[first])
