"""``compare``: does synthetic data help here? DM, SDA and CASD at equal budget, over sources and seeds, in one report.

This is the design of the CASD paper's section 4 as one call: the same architecture and training for every method
(section 4.1), one synthetic source at a time (4.2 to 4.4), a held-out reference that no model sees.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nomadiff.data.images import read_images
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.sources import ImageSource
from nomadiff.errors import UsageError
from nomadiff.experiments.arms import Arm, run_arms, with_seed
from nomadiff.experiments.findings import findings
from nomadiff.metrics.evaluate import ReferenceSet, distance_name
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.processes import join_processes
from nomadiff.reports.page import Composition, GridPanel, Neighbours, Report
from nomadiff.reports.plots import Curve
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table
from nomadiff.training.run_folder import RunFolder, versions

__all__ = ["METHOD_SENTENCES", "Comparison", "compare"]

METHOD_SENTENCES = {
    "dm": "Diffusion model trained on the real images only.",
    "sda": "Trained on real and synthetic images together, without telling them apart.",
    "casd": "Trained on all images with a source label, sampled with the label fixed to real.",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared with what.

    Attributes:
        mix: Real and synthetic images. ``{seed}`` in a subset is replaced by each seed.
        reference: Held-out real images to judge by: a path, as for the mix.
        out: Folder for runs, metrics and report.
        methods: Methods to compare.
        preset: Network and training of every arm.
        seeds: One set of arms is trained for each.
        changes: Training options that differ from the preset's, the same for every arm.
        together: Train on all synthetic sources at once (labels 1..K) instead of one at a time.
        class_labels: Condition on class labels too.
        count: Samples of every arm.
        detector: Feature space of the distance, precision, recall, density and coverage.
        classifier: Classifier of the composition; by default the detector itself where it classifies.
        workers: Arms trained side by side; the default is one a CPU core, and 1 on a GPU.
        device: Where to compute.
        title: Title of the report.
        command: The command line, printed in the report.
        notes: Honest limits, printed in the report.
        source_sentences: What each synthetic source is, for the report.
    """

    mix: MixSpec
    reference: str
    out: Path
    methods: tuple[str, ...] = ("dm", "sda", "casd")
    preset: str = "cifar10"
    seeds: tuple[int, ...] = (0, 1, 2)
    changes: Mapping[str, Any] = field(default_factory=dict)
    together: bool = False
    class_labels: bool = False
    count: int = 1000
    detector: str = "pixels"
    classifier: str | None = None
    workers: int | None = None
    device: str | None = None
    title: str = "Does synthetic data help here?"
    command: str = ""
    notes: tuple[str, ...] = ()

    def arms(self) -> list[Arm]:
        """Every model to train: for each seed, DM once and the other methods for each synthetic source."""
        named = self.mix.named_synthetic()
        if self.together:
            groups = {"+".join(name for name, _ in named): self.mix.synthetic}
        else:
            groups = {name: (argument,) for (name, _), argument in zip(named, self.mix.synthetic)}
        arms = []
        for seed in self.seeds:
            for method in self.methods:
                for source, synthetic in ({"": ()} if method == "dm" else groups).items():
                    mix = replace(with_seed(self.mix, seed), synthetic=synthetic)
                    if method == "dm":
                        mix = replace(mix, real_fraction=None, source_weights=None)
                    name = f"{method}-{source}" if source else method
                    arms.append(
                        Arm(
                            method=method,
                            source=source,
                            seed=seed,
                            mix=mix,
                            out=self.out / "runs" / f"{name}-seed{seed}",
                            preset=self.preset,
                            count=self.count,
                            changes=self.changes,
                            class_labels=self.class_labels,
                            device=self.device,
                        )
                    )
        return arms


def compare(comparison: Comparison) -> Table:
    """Train, sample and score every arm, and write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Interrupted, the same call continues: finished arms are kept, half-done ones resumed.

    Returns:
        One row an arm and seed: ``method``, ``source``, ``seed``, ``images_seen`` and one field a metric.

    Raises:
        UsageError, DataError: something is wrong with the images or options; found before training starts.
        NomadiffError, Interrupted: as training does.
    """
    if not comparison.mix.synthetic:
        raise UsageError("compare needs at least one --synthetic source; to train on real images alone use train")
    arms = comparison.arms()
    reference = _reference(comparison)
    for arm in arms:  # every image is read and every recipe checked before the first expensive step
        mix = arm.mix.open()
        arm.algorithm().recipe(mix)
        _check_size(reference, mix.sources[0], comparison.reference)
    run_arms(arms, workers=comparison.workers or _default_workers(comparison.device, len(arms)))
    return _judge(comparison, arms, reference)


def _reference(comparison: Comparison) -> ImageSource:
    return ImageSource.open(
        comparison.reference,
        name="reference",
        synthetic=False,
        resolution=comparison.mix.resolution,
        classes=comparison.mix.real_classes,
        allow_synthetic_as_real=comparison.mix.allow_synthetic_as_real,
    )


def _check_size(reference: ImageSource, real: ImageSource, spec: str) -> None:
    if reference.images.shape[1:] != real.images.shape[1:]:
        raise UsageError(
            f"reference {spec} has images of {tuple(reference.images.shape[1:])}, "
            f"the real source of {tuple(real.images.shape[1:])} (channels, height, width); pass --resolution"
        )


def _default_workers(device: str | None, arms: int) -> int:
    if join_processes(device).device.type != "cpu":
        return 1
    return min(arms, os.cpu_count() or 1)


def _judge(comparison: Comparison, arms: Sequence[Arm], reference: ImageSource) -> Table:
    """Score the samples of every arm and write table and report."""
    table = Table(meta={"command": comparison.command, "versions": versions()})
    report = Report(title=comparison.title, table=table, command=comparison.command, versions=versions())
    grids, neighbours, curves = [], [], []
    compositions: list[Composition] = []
    floors: dict[str, float] = {}
    train_images: dict[int, torch.Tensor] = {}
    references: dict[int, ReferenceSet] = {}
    for arm in arms:
        if arm.seed not in references:
            real = arm.mix.open().sources[0]
            train_images[arm.seed] = real.images
            references[arm.seed] = ReferenceSet(
                reference.images,
                train=real.images,
                detector=comparison.detector,
                classifier=comparison.classifier,
            )
        against = references[arm.seed]
        samples = read_images(arm.samples_path).images
        scores = against.evaluate(samples)
        shares, meta = scores.pop("composition"), scores.pop("meta")
        images_seen = arm.algorithm().training.steps * arm.algorithm().training.batch
        row = {"method": arm.method, "source": arm.source, "seed": arm.seed, "images_seen": images_seen, **scores}
        table.rows.append(row)
        table.meta.setdefault("evaluation", {key: value for key, value in meta.items() if not key.startswith("train")})
        curves.append(Curve(arm.method, RunFolder(arm.out).read_log(), arm.source, arm.seed))
        if arm.seed == comparison.seeds[0]:
            grids.append(GridPanel(arm.method, "", samples[:64], 8, arm.source, arm.method))
            neighbours.append(_neighbours(arm, samples, train_images[arm.seed], scores.get("replication")))
            if shares is not None:
                compositions.append(Composition(arm.method, _named(against, shares), arm.source))
    first = references[comparison.seeds[0]]
    name = distance_name(first.detector)
    half = len(reference.images) // 2
    floors[name] = first.distance(first.features[:half])
    metrics = metric_infos(name, replication_floor=first.quantile)
    if first.composition is not None:
        compositions.insert(0, Composition("real", _named(first, first.composition)))
    report.subtitle = _subtitle(comparison, train_images[comparison.seeds[0]], reference)
    report.metrics = metrics
    report.grids = [GridPanel("real", "held out", reference.images[:64], 8), *grids]
    report.neighbours = neighbours
    report.compositions = compositions
    report.curves = curves
    report.findings = findings(table, name)
    report.notes = comparison.notes
    report.arms = {method: METHOD_SENTENCES[method] for method in comparison.methods}
    report.provenance = _provenance(comparison, arms)
    table.write(comparison.out / "metrics.json")
    report.write(comparison.out / "report.html")
    return table


def metric_infos(distance: str, *, replication_floor: float = 0.05) -> list[MetricInfo]:
    """The metrics of the journey, in the order a report shows them."""
    return [
        MetricInfo(
            distance, distance, "lower", None, "Frechet distance to held-out real images in the detector's space."
        ),
        MetricInfo("precision", "precision", "higher", None, "Share of samples that lie among the real images."),
        MetricInfo("recall", "recall", "higher", None, "Share of real images that lie among the samples."),
        MetricInfo("density", "density", "higher", None, "How deep among the real images the samples lie."),
        MetricInfo("coverage", "coverage", "higher", None, "Share of real images with a sample next to them."),
        MetricInfo(
            "replication",
            "replication",
            "lower",
            replication_floor,
            "Share of samples closer to a training image than 95 % of held-out real images are.",
        ),
        MetricInfo("composition_tv", "composition", "lower", None, "Total variation distance of the class shares."),
    ]


def _neighbours(arm: Arm, samples: torch.Tensor, train: torch.Tensor, replication: float | None) -> Neighbours:
    shown = samples[:12]
    index, distance = nearest_neighbours(shown, train)
    title = f"{arm.method}, {arm.source}" if arm.source else arm.method
    sentence = "" if replication is None else f"{replication:.0%} of its samples replicate a training image."
    return Neighbours(title, shown, train[index[:, 0]], distance[:, 0].tolist(), sentence, arm.method)


def _named(against: ReferenceSet, shares: Sequence[float]) -> dict[str, float]:
    assert against.classifier is not None
    return dict(zip(against.classifier.class_names, shares))


def _subtitle(comparison: Comparison, train: torch.Tensor, reference: ImageSource) -> str:
    sources = ", ".join(name for name, _ in comparison.mix.named_synthetic())
    return (
        f"{len(train):,} real images, synthetic sources: {sources}; {len(comparison.seeds)} seed(s), "
        f"{comparison.count:,} samples an arm, judged by {len(reference):,} held-out real images."
    )


def _provenance(comparison: Comparison, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Every source once, as recorded in the runs of the first seed."""
    seen: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for source in arm.mix.open().provenance:
            seen.setdefault(source["name"], source)
    return [
        {key: value for key, value in source.items() if isinstance(value, str | int | float)}
        for source in seen.values()
    ]
