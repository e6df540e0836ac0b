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
from nomadiff.files import read_json
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.metrics.evaluate import ReferenceSet, distance_name, evaluate
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.pairs import pair_similarity
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
        detector_weights: Path or URL of the detector's weights, if not its own.
        classifier: Classifier of the composition; by default the detector itself where it classifies.
        classifier_weights: Path or URL of the classifier's weights.
        similarity: Measure SSIM between samples and to the nearest training image too (CASD Table 3).
        workers: Arms trained side by side; the default is one a CPU core, and 1 on a GPU.
        device: Where to compute.
        title: Title of the report.
        command: The command line, printed in the report.
        notes: Honest limits, printed in the report.
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
    detector_weights: str | None = None
    classifier: str | None = None
    classifier_weights: str | None = None
    similarity: bool = False
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
    for mix_spec in dict.fromkeys(
        arm.mix for arm in arms
    ):  # whatever is wrong is found before the first expensive step
        mix = mix_spec.open()
        _check_size(reference, mix.sources[0], comparison.reference)
        for arm in arms:
            if arm.mix == mix_spec:
                arm.algorithm().recipe(mix)
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
    grids, neighbours, compositions = [GridPanel("real", "held out", reference.images[:64], 8, method="real")], [], []
    curves: list[Curve] = []
    provenance: dict[str, dict[str, Any]] = {}
    shares_table = Table(meta=table.meta)
    detector = load_detector(comparison.detector, weights=comparison.detector_weights)
    classifier = None
    if comparison.classifier is not None:
        classifier = load_classifier(comparison.classifier, weights=comparison.classifier_weights)
    first: ReferenceSet | None = None
    for seed in comparison.seeds:
        of_seed = [arm for arm in arms if arm.seed == seed]
        train = of_seed[0].mix.open().sources[0].images
        against = ReferenceSet(
            reference.images,
            train=train,
            detector=detector,
            classifier=classifier,
        )
        first = first or against
        for arm in of_seed:
            samples = read_images(arm.samples_path).images
            scores = against.evaluate(samples)
            shares, meta = scores.pop("composition"), scores.pop("meta")
            training = arm.algorithm().training
            row = {"method": arm.method, "source": arm.source, "seed": seed}
            if comparison.similarity:
                scores |= _similarity(samples, train)
            table.rows.append({**row, "images_seen": training.steps * training.batch, **scores})
            if shares is not None:
                named = _named(against, shares)
                shares_table.rows += [{**row, "class": name, "share": share} for name, share in named.items()]
            table.meta["evaluation"] = {key: value for key, value in meta.items() if not key.startswith("train_sha")}
            run = RunFolder(arm.out)
            curves.append(Curve(arm.method, run.read_log(), arm.source, seed))
            provenance |= {source["name"]: source for source in read_json(run.path / "sources.json")}
            if against is first:
                grids.append(GridPanel(arm.method, "", samples[:64], 8, arm.source, arm.method))
                neighbours.append(_neighbours(arm, samples, train, scores.get("replication")))
                if shares is not None:
                    compositions.append(Composition(arm.method, _named(against, shares), arm.source))
    assert first is not None
    if first.composition is not None:
        compositions.insert(0, Composition("real", _named(first, first.composition)))
    distance = distance_name(first.detector)
    if first.composition is not None:
        real = {"method": "real", "source": "", "seed": comparison.seeds[0]}
        named = _named(first, first.composition)
        shares_table.rows += [{**real, "class": name, "share": share} for name, share in named.items()]
        shares_table.write(comparison.out / "composition.json")
    table.write(comparison.out / "metrics.json")
    Report(
        title=comparison.title,
        subtitle=_subtitle(comparison, len(train), len(reference)),
        table=table,
        metrics=metric_infos(distance, _floors(reference.images, first)),
        grids=grids,
        neighbours=neighbours,
        compositions=compositions,
        curves=curves,
        findings=findings(table, distance),
        command=comparison.command,
        versions=versions(),
        notes=comparison.notes,
        arms={method: METHOD_SENTENCES[method] for method in comparison.methods},
        provenance=[_flat(source) for source in provenance.values()],
    ).write(comparison.out / "report.html")
    return table


def _floors(images: torch.Tensor, against: ReferenceSet) -> dict[str, float]:
    """What fresh real data scores: one half of the reference judged by the other, and replication by construction."""
    half = len(images) // 2
    try:
        scores = evaluate(
            images[:half], images[half:], detector=against.detector, classifier=against.classifier, k=against.k
        )
    except UsageError:  # too few images to halve
        scores = {}
    return {**scores, "replication": against.quantile}


def metric_infos(distance: str, floors: Mapping[str, float]) -> list[MetricInfo]:
    """The metrics of the journey in the order a report shows them.

    Args:
        distance: name of the Frechet distance, such as ``fd_digits``.
        floors: what fresh real data scores, by metric.
    """
    described = [
        (distance, distance, "lower", "Frechet distance to held-out real images in the detector's feature space."),
        ("precision", "precision", "higher", "Share of samples that lie among the real images."),
        ("recall", "recall", "higher", "Share of real images that lie among the samples."),
        ("density", "density", "higher", "How deep among the real images the samples lie."),
        ("coverage", "coverage", "higher", "Share of real images with a sample next to them."),
        (
            "replication",
            "replication",
            "lower",
            "Share of samples closer to a training image than 95 % of held-out real images are.",
        ),
        (
            "ssim_nearest",
            "SSIM to training",
            "lower",
            "Structural similarity of samples to their nearest training image.",
        ),
        ("ssim_pairs", "SSIM of pairs", "lower", "Structural similarity of samples to one another."),
        ("composition_tv", "composition", "lower", "Total variation distance between class shares."),
    ]
    return [
        MetricInfo(field, label, "lower" if better == "lower" else "higher", floors.get(field), text)
        for field, label, better, text in described
    ]


def _similarity(samples: torch.Tensor, train: torch.Tensor) -> dict[str, float]:
    """Mean SSIM of pairs of samples and of samples with their nearest training image.

    Images smaller than SSIM's window of 11 pixels are enlarged by a whole factor (nearest neighbour).
    """
    factor = -(-11 // samples.shape[-1])
    if factor > 1:
        samples, train = (x.repeat_interleave(factor, -1).repeat_interleave(factor, -2) for x in (samples, train))
    return {name: float(values.mean()) for name, values in pair_similarity(samples, train).items()}


def _neighbours(arm: Arm, samples: torch.Tensor, train: torch.Tensor, replication: float | None) -> Neighbours:
    shown = samples[:12]
    index, distance = nearest_neighbours(shown, train)
    title = f"{arm.method}, {arm.source}" if arm.source else arm.method
    sentence = "" if replication is None else f"{replication:.0%} of its samples replicate a training image."
    return Neighbours(title, shown, train[index[:, 0]], distance[:, 0].tolist(), sentence, arm.method)


def _named(against: ReferenceSet, shares: Sequence[float]) -> dict[str, float]:
    assert against.classifier is not None
    return dict(zip(against.classifier.class_names, shares))


def _subtitle(comparison: Comparison, train: int, reference: int) -> str:
    sources = ", ".join(name for name, _ in comparison.mix.named_synthetic())
    return (
        f"{train:,} real images, synthetic sources: {sources}; {len(comparison.seeds)} seed(s), "
        f"{comparison.count:,} samples an arm, judged by {reference:,} held-out real images."
    )


def _flat(source: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance record without its nested parts, for a table."""
    return {key: value for key, value in source.items() if isinstance(value, str | int | float)}
