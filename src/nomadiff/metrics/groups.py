"""Metrics class by class, or by groups of classes: where in the distribution a generator is good and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import classify, extract_features
from nomadiff.metrics.frechet import frechet_distance_from_features
from nomadiff.metrics.manifold import prdc
from nomadiff.metrics.reference import ReferenceSet, distance_name
from nomadiff.tables import Table

__all__ = ["evaluate_groups", "group_members"]


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


def evaluate_groups(against: ReferenceSet, samples: Tensor, groups: Mapping[str, Sequence[str]] | None = None) -> Table:
    """Score the samples of each group against the reference images of the same group, both sorted by the classifier.

    Args:
        against: the reference; it must have its images and a classifier.
        samples: uint8 ``(N, C, H, W)``.
        groups: name of each group and the names of its classes, such as ``{"animals": ["bird", "cat"]}``; by default
            every class is a group.

    Returns:
        One row a group: ``group``, ``count`` and ``share`` of the samples, ``reference_count`` and ``reference_share``,
        and ``fd_<detector>``, ``precision``, ``recall``, ``density``, ``coverage``, None where either side has no more
        than k images of the group.

    Raises:
        UsageError: the reference has no classifier or no images, or a group is wrong.
    """
    if against.classifier is None:
        raise UsageError("metrics by class need a classifier: name one when the reference is made")
    if against.images is None or against.features is None:
        raise UsageError("metrics by class need the reference's images, and this reference holds features only")
    features = extract_features(against.detector, samples, batch_size=against.batch_size, cache=against.cache)
    of_samples = classify(against.classifier, samples, batch_size=against.batch_size)
    of_reference = classify(against.classifier, against.images, batch_size=against.batch_size)
    rows: list[dict[str, Any]] = []
    for name, members in group_members(against.classifier.class_names, groups).items():
        mine = torch.isin(of_samples, torch.tensor(members))
        theirs = torch.isin(of_reference, torch.tensor(members))
        count, reference_count = int(mine.sum()), int(theirs.sum())
        row: dict[str, Any] = {
            "group": name,
            "count": count,
            "share": count / len(samples),
            "reference_count": reference_count,
            "reference_share": reference_count / len(of_reference),
        }
        if min(count, reference_count) > against.k:
            real, fake = against.features[theirs], features[mine]
            row[distance_name(against.detector)] = frechet_distance_from_features(real, fake)
            row |= prdc(real, fake, against.k, against.convention)
        else:
            row |= dict.fromkeys((distance_name(against.detector), "precision", "recall", "density", "coverage"))
        rows.append(row)
    return Table(rows, {"count": len(samples), **against.meta})
