"""Scoring files of images, which is what ``nomadiff evaluate`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.reading import Reading
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import Classifier, Detector, extract_features, load_classifier, load_detector
from nomadiff.metrics.detectors.features import feature_cache
from nomadiff.metrics.groups import evaluate_groups, group_members
from nomadiff.metrics.intervals import validate_count
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.reference import EXTRAS, ReferenceSet
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.splits import fresh_count
from nomadiff.metrics.statistics_files import holds_statistics
from nomadiff.models.foreign import require_images
from nomadiff.processes import join_processes
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions

__all__ = ["EXTRA_METRICS", "EvaluationSettings", "evaluate_files", "parse_groups"]

EXTRA_METRICS = (*EXTRAS, "lpips")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Reading):
    """How generated images are scored. In Python groups are a mapping, ``{"animals": ["bird", "cat"]}``.

    Attributes:
        train: The real images the model was trained on; needed for replication.
        detector: Feature space: pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        classifier: Classifier for composition and classes; the detector itself where it classifies.
        classifier_weights: File or URL of the classifier's weights, if not its own; checked by SHA-256.
        extra: Further metrics: kid, ssim, lpips.
        lpips_weights: Files or URLs of LPIPS' AlexNet and of its heads, if not its own; checked by SHA-256.
        by_class: Score every class by itself too.
        groups: Score groups of classes by themselves too, as in animals=bird,cat.
        k: Neighbour of precision, recall, density and coverage.
        convention: Whose precision and recall: prdc (nearer than the radius) or kynkaanniemi (on it too, usually k 3).
        interval: Level of the confidence intervals.
        save_reference: Where to write the reference's features and statistics (.npz), to score by later.
        allow_train_as_reference: Accept a reference that is the training set, or mostly.
        device: Where the detector computes.
    """

    train: str | ImageSource | None = None
    detector: str | Detector = "pixels"
    detector_weights: str | None = None
    classifier: str | Detector | None = None
    classifier_weights: str | None = None
    extra: Sequence[str] = ()
    lpips_weights: tuple[str, str] | None = None
    by_class: bool = False
    groups: Mapping[str, Sequence[str]] | None = None
    k: int = 5
    convention: str = "prdc"
    interval: float | None = 0.95
    save_reference: str | Path | None = None
    resolution: int | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
    allow_train_as_reference: bool = False
    device: str | None = None


def evaluate_files(
    samples: str | ImageSource,
    reference: str | ImageSource,
    settings: EvaluationSettings | None = None,
    *,
    only_check: bool = False,
    **changes: Any,
) -> Table:
    """Score a set of generated images against real ones.

    The features of every set are kept in the cache under the hashes of its images and of the detector. Under a launcher
    of several processes each takes its share of the detectors' work, and the first one goes on.

    Args:
        samples: generated images, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens.
        reference: held-out real images; or a file of ``save_reference``, of EDM (``.npz``) or of EDM2 (``.pkl``).
        settings: how.
        only_check: read the images and load the detectors, score nothing: the table has no rows.
        **changes: fields of :class:`EvaluationSettings` to change, such as ``detector="inception"``.

    Returns:
        One row a metric: ``metric``, ``value``, ``low``, ``high`` (None without ``interval``) and ``floor``, what fresh
        real data scores (None where the reference cannot tell); with ``by_class`` or ``groups`` also ``group``, empty
        for all images together. The meta says what makes the figures comparable. Processes but the first get no rows.

    Raises:
        UsageError, DataError: the files cannot be used as asked; found before the detector sees many images.
    """
    settings = replace(settings or EvaluationSettings(), **changes)
    train, extra, interval = settings.train, settings.extra, settings.interval
    if unknown := sorted(set(extra) - set(EXTRA_METRICS)):
        raise UsageError(f"no extra metric {unknown[0]!r}: choose of {', '.join(EXTRA_METRICS)}")
    processes = join_processes(settings.device)
    torch_device = processes.device
    for spec in (samples, reference, *([] if train is None else [train])):
        if not isinstance(spec, ImageSource):
            require_images(spec)
    told = {"samples": spec_text(samples), "reference": spec_text(reference)}
    sets = {"samples": settings.read(samples, "samples", synthetic=True).pixels}
    statistics = not isinstance(reference, ImageSource) and holds_statistics(reference)
    if not statistics:
        sets["reference"] = settings.read(reference, "reference").pixels
    if train is not None:
        sets["train"] = settings.read(train, "train").pixels
    judge = load_detector(settings.detector, weights=settings.detector_weights, device=torch_device)
    classifier: Classifier | None = None
    if settings.classifier is not None:
        classifier = load_classifier(settings.classifier, weights=settings.classifier_weights, device=torch_device)
    _check(sets, [judge, *([] if classifier is None else [classifier])], settings.k, interval)
    lpips = None
    if "lpips" in extra:
        trunk, heads = settings.lpips_weights or (None, None)
        lpips = LPIPS("alex", device=torch_device, trunk=trunk, heads=heads)
        lpips(sets["samples"][:1], sets["samples"][:1])
    if only_check:
        counts: dict[str, Any] = {name: len(images) for name, images in sets.items()}
        found: dict[str, Any] = {"reference": spec_text(reference), **counts, "detector": judge.name}
        if train is not None and not statistics:
            allowed = settings.allow_train_as_reference
            overlap = calibrate(sets["train"], sets["reference"], allow_train_as_reference=allowed)
            found["reference in train"] = overlap.exact + overlap.near
        return Table(meta=found)
    cache = feature_cache()
    if processes.count > 1:
        for one in (judge, classifier):
            for name in ("samples", "reference"):
                if one is not None and name in sets:
                    extract_features(one, sets[name], cache=cache, processes=processes)
        if not processes.is_main:
            return Table()
    measured: dict[str, Any] = {"detector": judge, "classifier": classifier, "device": torch_device, "cache": cache}
    measured |= {"k": settings.k, "convention": settings.convention}
    if statistics:
        against = ReferenceSet.load(str(reference), **measured)
    else:
        allowed = settings.allow_train_as_reference
        against = ReferenceSet(sets["reference"], **measured, allow_train_as_reference=allowed)
    by_group = settings.by_class or settings.groups is not None
    if by_group:  # a wrong name is an error before the work
        if against.classifier is None:
            raise UsageError("metrics by class or group need a classifier: give --classifier")
        group_members(against.classifier.class_names, settings.groups)
    if train is not None:
        against = against.with_train(sets["train"])
    if settings.save_reference is not None:
        against.save(settings.save_reference)
    chosen = [name for name in extra if name in EXTRAS]
    scores = against.evaluate(sets["samples"], interval=interval, extra=chosen, lpips=lpips)
    floor = _floor(against, len(sets["samples"]), chosen, lpips)
    composition = scores.pop("composition")
    meta = {**scores.pop("meta"), "composition": composition, "versions": versions()}
    rows = _rows(scores | {f"{name}_floor": value for name, value in floor.items()})
    if against.features is not None and floor:
        drawn = fresh_count(len(against.features), len(sets["samples"]))
        meta |= {"floor_count": drawn, "floor_reference_count": len(against.features) - drawn}
    if by_group:
        table = evaluate_groups(against, sets["samples"], settings.groups, interval=interval, with_floor=True)
        rows = [{"group": "", **row} for row in rows]
        for wide in table.rows:
            rows += [{"group": wide["group"], **row} for row in _rows(wide) if row["metric"] not in _NAMES]
    return Table(rows, {**told, "train": None if train is None else spec_text(train), **meta})


_NAMES = ("group", "reference_count", "reference_share")  # fields of a group's row that are no metric of the samples


def parse_groups(texts: Sequence[str]) -> dict[str, list[str]]:
    """Groups of classes from the command line: ``animals=bird,cat``.

    Raises:
        UsageError: not such a text, or a name given twice.
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, equals, classes = text.partition("=")
        members = [one.strip() for one in classes.split(",") if one.strip()]
        if not name or not equals or not members or name in groups:
            raise UsageError(f"group {text!r}: write a new name and its classes, as in animals=bird,cat")
        groups[name] = members
    return groups


def _check(sets: Mapping[str, Tensor], detectors: Sequence[Detector], k: int, interval: float | None) -> None:
    """Validate images and settings before the first expensive step."""
    samples = sets["samples"]
    for name, images in sets.items():
        if images.shape[1:] != samples.shape[1:]:
            raise UsageError(
                f"samples have images of {tuple(samples.shape[1:])}, {name} of {tuple(images.shape[1:])} "
                "(channels, height, width); pass --resolution if only the size differs"
            )
        if name != "train" and len(images) <= k:
            raise UsageError(f"{name}: {len(images)} images; precision and recall with k = {k} need more than {k}")
    if interval is not None:
        validate_count(len(samples))
    for detector in detectors:
        detector(samples[:1])


def _floor(against: ReferenceSet, count: int, extra: Sequence[str], lpips: LPIPS | None) -> dict[str, float]:
    """What fresh real data scores; nothing where the reference is too small to tell, or holds statistics only."""
    if against.features is None or fresh_count(len(against.features), count) <= against.k:
        return {}
    return against.floor(count=count, extra=extra, lpips=lpips)


def _rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a metric, from one field a metric and its ends and floor."""
    return [
        {
            "metric": name,
            "value": value,
            "low": scores.get(f"{name}_low"),
            "high": scores.get(f"{name}_high"),
            "floor": scores.get(f"{name}_floor"),
        }
        for name, value in scores.items()
        if not name.endswith(("_low", "_high", "_floor"))
    ]
