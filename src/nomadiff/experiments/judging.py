"""From arms to answers: their samples scored, one tidy table, one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nomadiff.data.images import read_images
from nomadiff.data.sources import ImageSource
from nomadiff.errors import UsageError
from nomadiff.experiments.arms import Arm
from nomadiff.experiments.comparison import Comparison
from nomadiff.experiments.findings import findings
from nomadiff.files import read_json
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.metrics.evaluate import distance_name, evaluate
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.pairs import pair_similarity
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.reports.page import Composition, GridPanel, Neighbours, Report
from nomadiff.reports.plots import Curve
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table
from nomadiff.training.run_folder import RunFolder, versions

__all__ = ["judge", "metric_infos"]

_METHOD_SENTENCES = {
    "dm": "Diffusion model trained on the real images only.",
    "sda": "Trained on real and synthetic images together, without telling them apart.",
    "casd": "Trained on all images with a source label, sampled with the label fixed to real.",
}


def judge(comparison: Comparison, arms: Sequence[Arm], reference: ImageSource) -> Table:
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
        arms={method: _METHOD_SENTENCES[method] for method in comparison.methods},
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
