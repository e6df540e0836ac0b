"""Scoring files of images, which is what ``nomadiff evaluate`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.features import extract_features, feature_cache
from nomadiff.metrics.groups import evaluate_groups, group_members
from nomadiff.metrics.intervals import jackknife_interval
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.scoring import Scores
from nomadiff.metrics.splits import draws
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.evaluation_inputs import EvaluationInputs, Images
from nomadiff.workflows.evaluation_settings import EvaluationSettings

__all__ = ["Evaluation", "EvaluationSettings", "evaluate_files", "evaluate_sets"]


@dataclass(frozen=True)
class Evaluation:
    """What sets of samples score, and what of.

    Attributes:
        table: see :func:`evaluate_files`.
        samples: the sets by name.
        reference: the held-out images; None where they are statistics.
        train: the training images, or None.
        scores: of every set, by name; empty where nothing was scored here.
        threshold: distance to a training image below which a sample replicates it; None if unknown.
        several: whether sets were compared, or one was scored.
    """

    table: Table
    samples: dict[str, ImageSource]
    reference: ImageSource | None
    train: ImageSource | None
    scores: dict[str, Scores]
    threshold: float | None
    several: bool


def evaluate_files(
    samples: Images | Sequence[Images],
    reference: str | ImageSource,
    settings: EvaluationSettings | None = None,
    *,
    only_check: bool = False,
    **changes: Any,
) -> Table:
    """Score a set of generated images against real ones, or compare several.

    The features of every set are kept in the cache under the hashes of its images and of the detector. Under a launcher
    of several processes each takes its share of that work (wavelets and pixels, which cost little, are not kept), and
    the first one goes on.

    Args:
        samples: generated images, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens; or several such
            sets, ``[name=]path``, of which the first is what the others are compared with.
        reference: held-out real images; or a file of ``save_reference``, of EDM (``.npz``) or of EDM2 (``.pkl``).
        settings: how.
        only_check: read the images and load the detectors, score nothing: the table has no rows.
        **changes: fields of :class:`EvaluationSettings` to change, such as ``detector="inception"``.

    Returns:
        One row a metric: ``metric``, ``value``, ``low``, ``high`` (None without ``interval``) and ``floor``, what fresh
        real data scores (None where the reference cannot tell); with ``by_class`` or ``groups`` also ``group``, empty
        for all images together. Of several sets one row a set and metric, with ``set`` in front, and ``difference``
        from the first set with ``difference_low`` and ``difference_high`` behind: the interval of the paired
        difference, which knows that sample i of all sets may be of the same noise, and, of distances, that other
        reference images would have given other scores. The meta says what makes the figures comparable. Processes but
        the first get no rows.

    Raises:
        UsageError, DataError: the files cannot be used as asked; found before the detector sees many images.
    """
    return evaluate_sets(samples, reference, settings, only_check=only_check, **changes).table


def evaluate_sets(
    samples: Images | Sequence[Images],
    reference: str | ImageSource,
    settings: EvaluationSettings | None = None,
    *,
    only_check: bool = False,
    **changes: Any,
) -> Evaluation:
    """As :func:`evaluate_files`, with the images and what a report needs."""
    settings = replace(settings or EvaluationSettings(), **changes)
    inputs = EvaluationInputs(samples, reference, settings)
    if only_check:
        return _evaluation(inputs, Table(meta=inputs.plan()))
    cache = feature_cache()
    if inputs.processes.count > 1:
        for one in (inputs.judge, inputs.classifier):
            for source in (*inputs.samples.values(), inputs.reference):
                if one is not None and one.sha256 and source is not None:  # others are not cached
                    extract_features(one, source.pixels, cache=cache, processes=inputs.processes)
        if not inputs.processes.is_main:
            return _evaluation(inputs, Table())
    against = inputs.against(cache)
    by_group = settings.by_class or settings.groups is not None
    if by_group:  # a wrong name is an error before the work
        if against.classifier is None:
            raise UsageError("metrics by class or group need a classifier: give --classifier")
        if against.features is None or against.classes is None:
            raise UsageError("metrics by class or group need the reference's images, or features and classes of them")
        group_members(against.classifier.class_names, settings.groups)
    if inputs.train is not None:
        against = against.with_train(inputs.train.pixels, inputs.subjects(inputs.train))
    if settings.save_reference is not None:
        against.save(settings.save_reference)
    scores: dict[str, Scores] = {}
    moved: dict[str, dict[str, np.ndarray]] = {}
    with_intervals = settings.interval is not None
    options: dict[str, Any] = {"extra": inputs.extra, "lpips": inputs.lpips}
    for name, source in inputs.samples.items():
        read = against.read(source.pixels)
        scores[name] = against.score(source.pixels, groups=with_intervals, read=read, **options)
        if inputs.several and with_intervals:
            moved[name] = against.reference_left_out(read[0], inputs.extra)
    floors: dict[int, dict[str, float]] = {len(source): {} for source in inputs.samples.values()}
    for count in floors:
        floors[count] = against.floor(count=count, **options) if against.has_floor(count) else {}
    first = next(iter(scores))
    rows = []
    for name, source in inputs.samples.items():
        fields = scores[name].fields(settings.interval)
        found = _rows(fields | {f"{metric}_floor": value for metric, value in floors[len(source)].items()})
        if inputs.several:
            found = [
                {"set": name, **row, **_difference(row["metric"], name, first, scores, moved, settings.interval)}
                for row in found
            ]
        if by_group:
            table = evaluate_groups(
                against, source.pixels, settings.groups, interval=settings.interval, with_floor=True
            )
            head = {"set": name} if inputs.several else {}
            found = [{**head, "group": "", **row} for row in found]
            for wide in table.rows:
                of_group = [row for row in _rows(wide) if row["metric"] not in _NAMES]
                found += [{**head, "group": wide["group"], **row} for row in of_group]
        rows += found
    return _evaluation(inputs, Table(rows, _meta(inputs, against, scores, floors)), scores, against.threshold)


def _evaluation(
    inputs: EvaluationInputs, table: Table, scores: dict[str, Scores] | None = None, threshold: float | None = None
) -> Evaluation:
    return Evaluation(table, inputs.samples, inputs.reference, inputs.train, scores or {}, threshold, inputs.several)


def _meta(
    inputs: EvaluationInputs,
    against: ReferenceSet,
    scores: Mapping[str, Scores],
    floors: Mapping[int, Mapping[str, float]],
) -> dict[str, Any]:
    """What makes the figures comparable."""
    settings = inputs.settings
    counts = {name: len(source) for name, source in inputs.samples.items()}
    compositions = {name: each.composition for name, each in scores.items()}
    nearest = {
        name: [{key: row[key] for key in ("sample", "train", "distance", "ratio")} for row in each.nearest.rows(10)]
        for name, each in scores.items()
        if each.nearest is not None
    }
    told: dict[str, Any] = {"samples": inputs.specs, "reference": spec_text(inputs.reference_spec)}
    told["train"] = None if settings.train is None else spec_text(settings.train)
    found: dict[str, Any] = {"count": counts, **against.meta, "composition": compositions}
    found["dimension"] = len(against.statistics.mean)
    if against.classifier is not None and against.composition is not None:
        found["class_names"] = list(against.classifier.class_names)
    if nearest:
        found["nearest"] = nearest
    drawn_from = {name: _model_of(source) for name, source in inputs.samples.items()}
    if any(drawn_from.values()):
        found["model_sha256"] = drawn_from
    if not inputs.several:  # of one set, without its name
        first = next(iter(scores))
        if any(drawn_from.values()):
            found["model_sha256"] = drawn_from[first]
        told["samples"], found["count"], found["composition"] = inputs.specs[first], counts[first], compositions[first]
        if nearest:
            found["nearest"] = nearest[first]
    if against.features is not None and len(floors) == 1 and any(floors.values()):  # of sets of one size
        some, rest = next(draws(len(against.features), next(iter(floors)), against.subjects))
        found |= {"floor_count": len(some), "floor_reference_count": len(rest)}
    if settings.group_by is not None:
        found["group_by"] = settings.group_by
    return {**told, **found, "versions": versions()}


def _model_of(samples: ImageSource) -> str | None:
    """The hash of the model that drew samples, where they say it."""
    manifest = samples.provenance.get("manifest")
    found = manifest.get("model_sha256") if isinstance(manifest, Mapping) else None
    return found if isinstance(found, str) else None


_NAMES = ("group", "reference_count", "reference_share")  # fields of a group's row that are no metric of the samples


def _difference(
    metric: str,
    name: str,
    first: str,
    scores: Mapping[str, Scores],
    moved: Mapping[str, Mapping[str, np.ndarray]],
    level: float | None,
) -> dict[str, float | None]:
    """How much more than the first set a set scores, with an interval where it is known what moves both."""
    empty: dict[str, float | None] = dict.fromkeys(("difference", "difference_low", "difference_high"))
    one, other = scores[first], scores[name]
    if name == first or metric not in one.values:
        return empty
    value = other.values[metric] - one.values[metric]
    if level is None or metric not in one.left_out or metric not in other.left_out:
        return {**empty, "difference": value}
    parts = [other.left_out[metric] - one.left_out[metric]]
    if metric in moved.get(name, {}):
        parts.append(moved[name][metric] - moved[first][metric])
    low, high = jackknife_interval(value, parts[0], level, *parts[1:])
    if low == high:  # shares of 0 or 1 in both sets: no group moves them, which tells nothing of how far they may be
        return {**empty, "difference": value}
    return {"difference": value, "difference_low": low, "difference_high": high}


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
