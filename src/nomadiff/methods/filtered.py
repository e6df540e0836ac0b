"""Filtered union: only synthetic images that a discriminator takes for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.data.source_mix import SourceMix
from nomadiff.methods.prepared import PreparedMethod
from nomadiff.methods.telling_apart import Judged, image_rows, judge_sources, judges, require_judge
from nomadiff.processes import Processes
from nomadiff.tables import Table, read_table
from nomadiff.training.config import RunConfig

__all__ = ["Filtered"]

PASSES = 0.95
"""Share of held-out real images that pass the threshold."""


class Filtered(PreparedMethod):
    """The union of real images and those synthetic ones that a discriminator takes for real; not told apart.

    A discriminator learns to tell real from synthetic images under the noise levels of training
    (:func:`~nomadiff.methods.telling_apart.judge_sources`); every image is judged by one that has not seen it. Its
    score is the mean log-odds over the noise levels. The threshold is the score that 95 % of the held-out real images
    reach: a synthetic image is kept if it looks no less real than they do, and counts as it did in the whole mix: where
    few are kept, more of each batch is real. A source of which nothing is kept is left out. What was kept is in
    ``out/preparation/kept.csv``, the thresholds are in ``kept.json``.

    Args:
        preset, class_labels, training: as for every method. ``budget`` counts the discriminators' images too.
        share: the discriminators' budget as a share of the training's.

    Raises:
        UsageError: no such preset or training field, or a value out of range.
    """

    name = "filtered"
    description = "Trained on real images and those synthetic ones that a discriminator takes for real."
    finds = "the discriminators that chose"

    def parts(self, recipe: RunConfig) -> int:
        """Two judges for each synthetic source."""
        return judges(recipe)

    def recipe(self, mix: SourceMix) -> RunConfig:
        """As for every method that prepares.

        Raises:
            UsageError: as there, or the network has no encoder that could judge images.
        """
        config = super().recipe(mix)
        require_judge(config, self.name)
        return config

    def prepared(self, mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> SourceMix:
        """Choose the synthetic images to keep."""

        def find() -> Table:
            return _table(mix, judge_sources(mix, recipe, folder, budget, processes))

        rows = self.findings(folder / "kept.json", processes, find).rows
        real, *synthetic = mix.sources
        kept, shares = [], [float(mix.shares[0])]
        for source, share in zip(synthetic, mix.shares[1:]):
            chosen = np.array([row["index"] for row in rows if row["source"] == source.name and row["kept"]], np.int64)
            if len(chosen):
                kept.append(source.chosen(chosen, f"taken for real:{len(chosen)}"))
                shares.append(float(share) * len(chosen) / len(source))
        if not kept:
            return SourceMix(real)
        # of what is kept every image counts as it did: a few would else be seen as often as all were
        fraction, *weights = (share / sum(shares) for share in shares)
        return SourceMix(real, kept, real_fraction=fraction, weights=weights)

    def found(self, out: Path) -> str:
        """How many images of each source were kept."""
        path = out / "preparation" / "kept.json"
        told = [
            f"{each['kept']:,} of {each['count']:,} of {name}"
            for name, each in read_table(path).meta["sources"].items()
        ]
        return f"kept: {', '.join(told)}; which ones: {path.with_suffix('.csv')}"


def _table(mix: SourceMix, judged: list[Judged]) -> Table:
    """One row a synthetic image; per source the threshold in the table's meta."""
    rows: list[dict[str, Any]] = []
    sources: dict[str, Any] = {}
    for source, each in zip(mix.sources[1:], judged):
        real, score = each.real.mean(1).double(), each.synthetic.mean(1).double()
        threshold = float(real.quantile(1 - PASSES))
        kept = score >= threshold
        sources[source.name] = {
            "threshold": threshold,
            "kept": int(kept.sum()),
            "count": len(score),
            "accuracy": float(Judged(each.levels[:1], real[:, None], score[:, None]).accuracy()),
        }
        rows += image_rows(source, score=score, kept=kept)
    return Table(rows, {"passes": PASSES, "sources": sources})
