"""Score the samples of all arms; write one table and one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.metadata import subjects_of
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.method import Method
from nomadiff.metrics.detectors.features import feature_cache
from nomadiff.metrics.detectors.loading import load_classifier, load_detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.evidence import seeds_text
from nomadiff.metrics.intervals import GROUPS
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.trained import are_like, why_untrained
from nomadiff.metrics.verdict import judge as judge_arms
from nomadiff.monitoring.history import History
from nomadiff.processes import join_processes
from nomadiff.reports.page import Composition, Finding, GridPanel, Neighbours, Report
from nomadiff.reports.plots import Curve
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.arms import Arm
from nomadiff.workflows.comparison import Comparison
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["judge"]

_SHOWN = 64  # samples of an arm in the report
_TOLD = ("distance", "replication")  # what the first lines of a report name; verdict.json has the rest


@dataclass
class _Scored:
    """What one arm scored, and the first of its samples."""

    arm: Arm
    samples: torch.Tensor
    metrics: dict[str, Any]
    shares: dict[str, float] | None

    @property
    def row(self) -> dict[str, Any]:
        named = {"method": self.arm.method, "source": self.arm.source, "seed": self.arm.seed}
        control = self.arm.algorithm().control
        return {
            **named,
            "images_seen": self.arm.images_to_see,
            **({"control": control} if control else {}),
            **self.metrics,
        }


def judge(comparison: Comparison, arms: Sequence[Arm], reference: ImageSource) -> tuple[Table, Report]:
    """Score the samples of every arm; write the tables ``metrics``, ``composition`` and ``verdict``.

    Args:
        comparison: what was compared.
        arms: its arms, trained and sampled.
        reference: held-out real images.

    Returns:
        The table, one row an arm and seed, and the report on it, not yet written.
    """
    torch_device = join_processes(comparison.device).device
    detector = load_detector(comparison.detector, weights=comparison.detector_weights, device=torch_device)
    classifier = None
    if comparison.classifier is not None:
        classifier = load_classifier(comparison.classifier, weights=comparison.classifier_weights, device=torch_device)
    scored: list[_Scored] = []
    neighbours: list[Neighbours] = []
    legend: dict[str, str] = {}
    held_out = ReferenceSet(
        reference.images,
        detector=detector,
        classifier=classifier,
        cache=feature_cache(),
        allow_train_as_reference=comparison.allow_train_as_reference,
        subjects=subjects_of(reference, comparison.group_by),
    )
    against = held_out
    notes = list(comparison.notes)
    floor = _floor(held_out, comparison)
    for seed in comparison.seeds:
        of_seed = [arm for arm in arms if arm.seed == seed]
        mixes = {mix: mix.open() for mix in dict.fromkeys(arm.mix for arm in of_seed)}
        real_source = mixes[of_seed[0].mix].sources[0]
        train = real_source.images
        against = held_out.with_train(train, subjects_of(real_source, comparison.group_by))
        if against.overlap and against.overlap not in notes:
            notes.append(against.overlap)
        for arm in of_seed:
            synthetic = mixes[arm.mix].sources[1:] or [source for mix in mixes.values() for source in mix.sources[1:]]
            legend.setdefault(arm.method, _legend(arm.algorithm(), mixes[arm.mix]))
            if told := arm.algorithm().found(arm.out):
                notes.append(f"{arm.out.name}: {told}")
            extra = ("ssim",) if comparison.similarity else ()
            scored.append(_score(arm, against, train, {each.name: each.images for each in synthetic}, extra, floor))
            if seed == comparison.seeds[0]:
                neighbours.append(_neighbours(scored[-1], train))
    conditions = {key: value for key, value in against.meta.items() if not key.startswith("train_sha")}
    evaluation = {"count": comparison.count, **conditions}
    meta = {"command": comparison.command, "versions": versions(), "evaluation": evaluation}
    table = Table([each.row for each in scored], meta)
    table.write(comparison.out / "metrics.json")
    real = None if against.composition is None else _named(against, against.composition)
    if real is not None:
        _composition_table(scored, real, meta).write(comparison.out / "composition.json")
    found, verdict = _findings(table.rows)
    if verdict is not None:
        verdict.write(comparison.out / "verdict.json")
    runs = [each.arm.run_folder() for each in scored]
    provenance = {source["name"]: source for run in runs for source in run.read_sources()}
    shown = [each for each in scored if each.arm.seed == comparison.seeds[0]]
    report = Report(
        title=comparison.title,
        subtitle=_subtitle(comparison, len(train), len(reference)),
        table=table,
        metrics=metric_infos(distance_name(detector), floor),
        grids=[
            GridPanel("real", "held out", reference.images[:_SHOWN], 8, method="real"),
            *(GridPanel(e.arm.method, "", e.samples, 8, e.arm.source, e.arm.method) for e in shown),
        ],
        neighbours=neighbours,
        compositions=[] if real is None else [Composition("real", real), *_compositions(shown)],
        curves=[
            Curve(each.arm.method, run.read_log(), each.arm.source, each.arm.seed) for each, run in zip(scored, runs)
        ],
        findings=found,
        command=comparison.command,
        versions=versions(),
        notes=tuple(notes),
        arms=legend,
        provenance=[_flat(source) for source in provenance.values()],
    )
    return table, report


def _score(
    arm: Arm,
    against: ReferenceSet,
    train: torch.Tensor,
    synthetic: Mapping[str, torch.Tensor],
    extra: Sequence[str],
    floor: Mapping[str, float],
) -> _Scored:
    """Score one arm; ``style`` is the mean over ``synthetic``, its own sources or, for real-only training, all.

    Of an arm without a source, ``style of NAME`` is that of each by itself, where there are several.
    """
    samples = read_images(arm.samples_path).images
    interval = 0.95 if len(samples) >= 2 * GROUPS else None
    metrics = against.evaluate(samples, extra=extra, interval=interval)
    shares = metrics.pop("composition")
    metrics.pop("meta")
    styles = {
        name: style for name, images in synthetic.items() if (style := _style(against, samples, images)) is not None
    }
    if styles:
        metrics["style"] = sum(styles.values()) / len(styles)
    if not arm.source and len(synthetic) > 1:
        metrics |= {f"style of {name}": style for name, style in styles.items()}
    warmup = "its warm-up is not over" if arm.algorithm().training.inside_warmup else ""
    why = why_untrained(metrics, floor)
    if why and any(are_like(samples, images, against) for images in (train, *synthetic.values())):
        why = ""  # far from real images, as what it learnt from is
    history = History(arm.run_folder().path)
    if history.falls_fast and not why:
        why = f"its held-out loss still fell by {history.still_falling:.0%} over the last quarter of the training"
    if warmup or why:
        metrics["untrained"] = warmup or why
    return _Scored(arm, samples[:_SHOWN].clone(), metrics, None if shares is None else _named(against, shares))


def _legend(method: Method, mix: SourceMix) -> str:
    """What a method is, in words."""
    # a user's subclass does not mean what the class it extends does: an inherited description is not its own
    own = "description" in vars(method) or "description" in vars(type(method))
    words = (method.description if own else "") or (type(method).__doc__ or "").strip().partition("\n")[0]
    return " ".join(filter(None, (words, method.budget_note(method.recipe(mix)))))


def _style(against: ReferenceSet, samples: torch.Tensor, synthetic: torch.Tensor) -> float | None:
    """How much of a source's style shows in samples; None where that cannot be said."""
    try:
        return against.style(samples, synthetic)
    except UsageError:
        return None


def _composition_table(scored: Sequence[_Scored], real: Mapping[str, float], meta: dict[str, Any]) -> Table:
    """One row an arm, seed and class."""
    rows = []
    for each in scored:
        named = {"method": each.arm.method, "source": each.arm.source, "seed": each.arm.seed}
        rows += [{**named, "class": name, "share": share} for name, share in (each.shares or {}).items()]
    rows += [{"method": "real", "source": "", "seed": None, "class": name, "share": real[name]} for name in real]
    return Table(rows, meta)


def _compositions(shown: Sequence[_Scored]) -> list[Composition]:
    return [Composition(each.arm.method, each.shares, each.arm.source) for each in shown if each.shares is not None]


def _floor(against: ReferenceSet, comparison: Comparison) -> dict[str, float]:
    """What fresh real data scores; nothing where the reference is too small to tell."""
    try:
        return against.floor(count=comparison.count, extra=("ssim",) if comparison.similarity else ())
    except UsageError:
        return {}


def _findings(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Finding], Table | None]:
    """The verdict on the arms as sentences and as a table; nothing without a real-only arm to compare with."""
    try:
        verdict = judge_arms(rows)
    except UsageError:
        return [], None
    result = [Finding(verdict.recommendation)]
    for arm in dict.fromkeys((each.method, each.source) for each in verdict.statements if each.principle == "no harm"):
        harmless, useful = verdict.find("no harm", *arm), verdict.find("utility", *arm)
        if not harmless.evidence and not useful.evidence:
            continue  # no model yet: the recommendation says so
        tone: Literal["good", "bad", "neutral"] = "bad" if harmless.answer == "no" else "neutral"
        if harmless.answer == useful.answer == "yes":
            tone = "good"
        deciding = [item for item in harmless.evidence if item.low > 0] if harmless.answer == "no" else []
        evidence = (*harmless.evidence, *useful.evidence)
        told = [item.sentence() for item in evidence if item.role in _TOLD or item in deciding]
        name = f"{arm[0].upper()} with “{arm[1]}”" if arm[1] else arm[0].upper()
        mixed = harmless.answer == "no" and useful.answer == "yes"
        answers = f"{name}: {'harm, though it helps in part' if mixed else f'{harmless.words}; {useful.words}'}."
        against = f" Against real-only training: {'; '.join(dict.fromkeys(told))}." if told else ""
        gain = [each for each in verdict.statements if (each.principle, each.method, each.source) == ("gain", *arm)]
        control = "".join(f" {each.words[0].upper()}{each.words[1:]}." for each in gain)
        result.append(Finding(answers + against + control, tone))
    return result, verdict.table()


def _neighbours(scored: _Scored, train: torch.Tensor) -> Neighbours:
    shown = scored.samples[:12]
    index, distance = nearest_neighbours(shown, train)
    method, source = scored.arm.method, scored.arm.source
    rate = scored.metrics.get("replication")
    sentence = "" if rate is None else f"{rate:.0%} of its samples replicate a training image."
    title = f"{method}, {source}" if source else method
    return Neighbours(title, shown, train[index[:, 0]], distance[:, 0].tolist(), sentence, method)


def _named(against: ReferenceSet, shares: Sequence[float]) -> dict[str, float]:
    assert against.classifier is not None
    return dict(zip(against.classifier.class_names, shares))


def _subtitle(comparison: Comparison, train: int, reference: int) -> str:
    sources = ", ".join(name for name, _ in comparison.mix_spec.named_synthetic()) or "none"
    return (
        f"{train:,} real images, synthetic sources: {sources}; {seeds_text(len(comparison.seeds))}, "
        f"{comparison.count:,} samples an arm, judged by {reference:,} held-out real images."
    )


def _flat(source: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance record without its nested parts, for a table."""
    return {key: value for key, value in source.items() if isinstance(value, str | int | float)}
