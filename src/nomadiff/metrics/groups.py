"""Metrics class by class, or by groups of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.distance_names import FDR, distance_name
from nomadiff.metrics.intervals import share_interval, validate_level
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.splits import mean_scores
from nomadiff.tables import Table

__all__ = ["evaluate_groups", "group_members", "validate_groups"]

_OF_FEATURES = ("precision", "recall", "density", "coverage")
_DRAWS = 10  # subsets to a group


def group_members(
    class_names: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[int]]:
    """Class numbers of each group; every class its own group by default.

    Args:
        class_names: the classifier's.
        groups: name of each group and the names of its classes.

    Raises:
        UsageError: a group is empty, or names a class that is not there.
    """
    if groups is None:
        return {name: [number] for number, name in enumerate(class_names)}
    members: dict[str, list[int]] = {}
    for name, classes in groups.items():
        if not classes:
            raise UsageError(f"group {name!r} has no classes")
        if unknown := [one for one in classes if one not in class_names]:
            raise UsageError(f"group {name!r}: no class {unknown[0]!r}; there are {', '.join(class_names)}")
        members[name] = [list(class_names).index(one) for one in classes]
    return members


def validate_groups(class_names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise the UsageError of :func:`group_members`, if there is one."""
    group_members(class_names, groups)


def evaluate_groups(
    against: ReferenceSet,
    samples: Tensor,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    interval: float | None = None,
    with_floor: bool = False,
    subsets: Mapping[str, int] | None = None,
) -> Table:
    """Score each group's samples against the reference images of that group, as the classifier assigns them.

    Args:
        against: the reference; it must have its features and a classifier.
        samples: uint8 ``(N, C, H, W)``.
        groups: name of each group and the names of its classes, such as ``{"animals": ["bird", "cat"]}``; by default
            every class is a group.
        interval: level of confidence intervals: every metric then has ``<metric>_low`` and ``<metric>_high``.
        with_floor: there is ``fdr`` too (:mod:`~nomadiff.metrics.fdr`), and every metric has ``<metric>_floor``, what
            fresh real data of the group scores (see :meth:`~nomadiff.metrics.reference.ReferenceSet.floor`); of
            ``share`` it is the ``reference_share``.
        subsets: score each group by random subsets of so many of its images, and give the mean over ten. The Frechet
            distance depends on the number of images; this way a group's share does not change its figures. They have no
            intervals or floors.

    Returns:
        One row a group: ``group``, ``count`` and ``share`` of the samples, ``reference_count`` and ``reference_share``,
        and ``fd_<detector>``, ``precision``, ``recall``, ``density``, ``coverage``, None where either side has no more
        than k images of the group (or of its subset). Intervals and floors are left out or None where there are too few
        images for them. With ``subsets`` also ``subset``, their size.

    Raises:
        UsageError: the reference has no classifier or no features, or a group is wrong.
    """
    if against.classifier is None:
        raise UsageError("metrics by class need a classifier: name one when the reference is made")
    if against.features is None or against.classes is None:
        raise UsageError("metrics by class need the reference's features and classes, and this one holds neither")
    if interval is not None:
        validate_level(interval)
    members = group_members(against.classifier.class_names, groups)
    features, of_samples = against.read(samples)
    assert of_samples is not None
    rows: list[dict[str, Any]] = []
    for name, numbers in members.items():
        mine = torch.isin(of_samples, torch.tensor(numbers))
        theirs = torch.isin(against.classes, torch.tensor(numbers))
        row: dict[str, Any] = {
            "group": name,
            "count": int(mine.sum()),
            "share": float(mine.double().mean()),
            "reference_count": int(theirs.sum()),
            "reference_share": float(theirs.double().mean()),
        }
        if interval is not None:
            row["share_low"], row["share_high"] = share_interval(row["share"], len(samples), interval)
        if with_floor:
            row["share_floor"] = row["reference_share"]
        size = row["count"] if subsets is None else subsets[name]
        if subsets is not None:
            row["subset"] = size
        if against.k < min(size, row["reference_count"]) and size <= row["count"]:
            part = against.subset(theirs)
            if subsets is None:
                row |= _of_group(part, features[mine], interval, with_floor)
            else:
                row |= _of_subsets(part, features[mine], size)
        else:
            row |= dict.fromkeys((distance_name(against.detector), *_OF_FEATURES))
        rows.append(row)
    return Table(rows, {"count": len(samples), **against.meta})


def _of_group(
    part: ReferenceSet, features: Tensor, interval: float | None, with_floor: bool
) -> dict[str, float | None]:
    """The metrics of one group's features against its part of the reference."""
    row: dict[str, float | None] = dict(part.score_features(features, interval))
    if with_floor:
        names = (distance_name(part.detector), FDR, *_OF_FEATURES)
        row[FDR] = part.fdr(features)
        floor = part.floor(count=len(features)) if part.has_floor(len(features)) else {}
        row |= {f"{name}_floor": floor.get(name) for name in names}
    return row


def _of_subsets(part: ReferenceSet, features: Tensor, size: int) -> dict[str, float]:
    """Means of the metrics over random subsets of ``size`` features."""
    random = np.random.default_rng(0)
    picked = [torch.from_numpy(random.permutation(len(features))[:size]) for _ in range(_DRAWS)]
    return mean_scores([part.score_features(features[indices]) for indices in picked])
