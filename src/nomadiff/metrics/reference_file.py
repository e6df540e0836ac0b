"""What a stored reference says beside its statistics: the features themselves, their classes, what made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.statistics_files import read_members
from nomadiff.plain import parse_json
from nomadiff.safe_pickle import printable

__all__ = ["StoredReference", "read_stored"]


@dataclass(frozen=True)
class StoredReference:
    """The contents of a reference file.

    Attributes:
        features: float ``(N, D)``; None in a file of EDM's, which has mean and covariance only.
        classes: int64 ``(N,)``, by the classifier of ``classifier_sha256``; or None.
        classifier_sha256: of the classifier, or None.
        counted: ``reference_count`` and ``reference_sha256``, where the file says them.
    """

    features: Tensor | None = None
    classes: Tensor | None = None
    classifier_sha256: str | None = None
    counted: dict[str, Any] = field(default_factory=dict)


def read_stored(path: Path, detector: Detector, statistics: Statistics) -> StoredReference:
    """What a file of :meth:`~nomadiff.metrics.reference.ReferenceSet.save` holds; nothing of one of EDM's or EDM2's.

    Args:
        path: the file.
        detector: what its features must be of.
        statistics: read from it before.

    Raises:
        DataError: features or classes that cannot be.
        UsageError: it was made with another detector.
    """
    held = {} if path.suffix == ".pkl" else read_members(path, ("meta", "features", "classes"))
    if "meta" not in held:
        return StoredReference()
    meta = parse_json(str(held["meta"]), f"{path}: its description", dict)
    made_with = tuple(str(meta.get(f"detector{name}")) for name in ("", "_version", "_sha256"))
    here = tuple(map(str, (detector.name, detector.version, detector.sha256)))
    if made_with != here:
        theirs, ours = (_told(*each) for each in (made_with, here))
        raise UsageError(
            f"{path}: made with detector {theirs}, not with {ours}: give the images themselves, or that --detector"
        )
    features, classes = held.get("features"), held.get("classes")
    if features is not None and (
        features.ndim != 2 or features.dtype.kind != "f" or features.shape[1] != len(statistics.mean)
    ):
        raise DataError(f"{path}: its features do not belong to its mu")
    if classes is not None and (
        classes.ndim != 1 or classes.dtype.kind not in "iu" or (classes.size and classes.min() < 0)
    ):
        raise DataError(f"{path}: its classes are no labels")
    return StoredReference(
        None if features is None else torch.from_numpy(features),
        None if classes is None else torch.from_numpy(classes.astype(np.int64)),
        meta.get("classifier_sha256"),
        {name: meta.get(name) for name in ("reference_count", "reference_sha256")},
    )


def _told(name: str, version: str, sha256: str) -> str:
    return printable(f"{name} version {version}" + (f" ({sha256[:12]})" if sha256 else ""))
