"""Weighted union: the share of real images is searched, as practitioners do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.data.image_source import ImageSource
from nomadiff.data.selection import shuffled
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import remove_tree
from nomadiff.methods.prepared import PreparedMethod
from nomadiff.processes import Processes
from nomadiff.tables import Table, read_table
from nomadiff.training.config import RunConfig
from nomadiff.training.held_out_loss import FixedImages, fixed_noise_losses
from nomadiff.training.loop import train
from nomadiff.training.presets import AnyPreset
from nomadiff.training.run_folder import RunFolder

__all__ = ["Weighted", "WeightedCASD"]

_HELD_OUT = 5  # one in so many real images
_MOST = 1024  # of those, to score by
_SPLIT = 21  # keeps this stream apart from those of training


class Weighted(PreparedMethod):
    """The union of all images with the share of real ones that teaches best; not told apart.

    For every candidate a pilot, the same network on four fifths of the real images and all synthetic ones, sees an
    equal part of the search's budget. The share with the least denoising loss (EDM's, over the noise levels of
    training) on the other real images wins, and the rest of the budget trains on all images. Candidates are the mix's
    own share (the one given, or every image once) and ``candidates``. Pilots are short, so what shows late (copying of
    few real images) is hardly seen. ``out/preparation/shares.csv`` has the losses.

    Args:
        preset, class_labels, training: as for every method. ``budget`` counts the pilots' images too.
        candidates: shares of real images to try beside the mix's own.
        share: the search's budget as a share of the training's.

    Raises:
        UsageError: no such preset or training field, or a value out of range.
    """

    name = "weighted"
    description = "Trained on all images; the share of real ones was searched by the loss on held-out real images."
    finds = "pilots with several shares of real images"

    def __init__(
        self, preset: AnyPreset = "cifar10", *, candidates: Sequence[float] = (0.25, 0.5, 0.75), **options: Any
    ) -> None:
        super().__init__(preset, **options)
        if not candidates or not all(0 < share < 1 for share in candidates):
            raise UsageError(f"candidates must be shares in 0..1 (both excluded), got {tuple(candidates)}")
        self.candidates = tuple(sorted(set(candidates)))

    def parts(self, recipe: RunConfig) -> int:
        """One pilot for each share."""
        return len(self._shares(recipe))

    def _shares(self, recipe: RunConfig) -> list[float]:
        return sorted({round(recipe.shares[0], 6), *self.candidates})

    def own_settings(self) -> dict[str, Any]:
        """The candidates too."""
        return {**super().own_settings(), "candidates": self.candidates}

    def recipe(self, mix: SourceMix) -> RunConfig:
        """As for every method that prepares.

        Raises:
            UsageError: as there, or there are fewer than five real images.
        """
        if len(mix.sources[0]) < _HELD_OUT:
            raise UsageError(f"{self.name} holds a fifth of the real images out: it needs at least {_HELD_OUT}")
        return super().recipe(mix)

    def prepared(self, mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> SourceMix:
        """Search the share."""

        def find() -> Table:
            table = self._searched(mix, recipe, folder, budget, processes)
            if processes.is_main:
                for part in folder.glob("share-*/s*/"):  # states and snapshots, of no use any more
                    remove_tree(part)
            return table

        best = min(self.findings(folder / "shares.json", processes, find).rows, key=lambda row: row["loss"])
        return _shared(mix, mix.sources[0], best["real_share"])

    def _searched(self, mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> Table:
        """One row a candidate."""
        real, options = mix.sources[0], recipe.training
        order = shuffled(len(real), _SPLIT, options.seed)
        count = len(real) // _HELD_OUT
        held_out, learnt = (real.chosen(np.sort(part), "held out") for part in (order[:count], order[count:]))
        shares = self._shares(recipe)
        pilot = budget // len(shares)
        training = replace(options, budget=pilot, warmup=min(options.warmup, pilot // 10))
        labels = held_out.labels_among(recipe.vocabulary)[:_MOST] if recipe.classes else None
        judged_by = FixedImages(held_out.images[:_MOST], 0, labels)
        rows = []
        for share in shares:
            used = _shared(mix, learnt, share)
            config = replace(self.recipe_of(used), training=training)
            if recipe.classes:  # a class may have no image among those learnt from
                config = replace(config, classes=recipe.classes, class_names=recipe.class_names, class_counts=())
            run = RunFolder(folder / f"share-{share:g}")
            trained = train(config, used, run, processes, description=f"pilot: {share:.0%} real")
            losses = fixed_noise_losses(trained, judged_by, SourceMix(held_out), config, processes).mean(1)
            row = {"real_share": share, "loss": float(losses.mean()), "images_seen": pilot}
            rows.append({**row, "standard_error": float(losses.std() / len(losses) ** 0.5) if count > 1 else None})
        return Table(rows, {"held_out": count, "learnt": len(real) - count})

    def found(self, out: Path) -> str:
        """The share that was chosen."""
        path = out / "preparation" / "shares.json"
        rows = read_table(path).rows
        best = min(rows, key=lambda row: row["loss"])
        told = ", ".join(f"{row['real_share']:.0%} {row['loss']:.4g}" for row in rows)
        return f"share of real images: {best['real_share']:.0%} (loss on held-out real images: {told}); {path}"


class WeightedCASD(Weighted):
    """:class:`~nomadiff.methods.casd.CASD` with the share of real images that teaches best; pilots are told the source.

    Args:
        preset, class_labels, candidates, share, training: as for :class:`Weighted`.

    Raises:
        UsageError: as there.
    """

    name = "casd+weighted"
    description = (
        "Trained on all images with a source label, sampled with the label fixed to real; the share of real images was "
        "searched by the loss on held-out real images."
    )
    labels_sources = True


def _shared(mix: SourceMix, real: ImageSource, share: float) -> SourceMix:
    """The mix with another real source and another share of it; the synthetic ones keep their proportions."""
    weights = [float(each) for each in mix.shares[1:] / mix.shares[1:].max()]
    return SourceMix(real, mix.sources[1:], real_fraction=share, weights=weights)
