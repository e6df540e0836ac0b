"""A set of images read from where it lies, with what was chosen of it and where it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nomadiff.data import digits, hub
from nomadiff.data.arrays import fit_array
from nomadiff.data.choice import parse_choice
from nomadiff.data.images import ImageSet, read_images
from nomadiff.data.manifest import is_synthetic, read_manifest
from nomadiff.data.selection import of_classes, parse_classes, parse_subset
from nomadiff.errors import UsageError

__all__ = ["indices_of_classes", "read_selected", "taken"]


class Labelled(Protocol):
    """Images of which some may have class labels: an :class:`~nomadiff.data.images.ImageSet`, a source."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor | None: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def unlabelled(self) -> str | None: ...

    @property
    def names(self) -> tuple[str, ...] | None: ...


def read_selected(
    spec: str,
    *,
    synthetic: bool,
    resolution: int | None,
    subset: str | None,
    classes: str | None,
    allow_synthetic_as_real: bool,
    skip_unreadable: bool,
) -> tuple[ImageSet, dict[str, Any]]:
    """The chosen images of a set, and their provenance; arguments as of
    :meth:`~nomadiff.data.image_source.ImageSource.open`.

    Raises:
        UsageError: a set that says it is synthetic is opened as real; a malformed or too large selection.
        DataError: as :func:`~nomadiff.data.images.read_images`.
    """
    choose = [parse_subset(subset)] if subset is not None else []  # an error in the call comes before reading
    wanted = parse_classes(classes) if classes is not None else None
    location = parse_choice(spec).location
    manifest = _manifest(location)
    if is_synthetic(manifest) and not synthetic and not allow_synthetic_as_real:
        raise UsageError(
            f"{spec}: its manifest says these images are synthetic, but they are opened as real; "
            "pass --allow-synthetic-as-real if that is meant"
        )
    if spec.startswith(digits.PREFIX):
        found = digits.read_digits(spec)
        if resolution is not None:
            resized = torch.from_numpy(fit_array(found.images.numpy(), resolution, spec))
            found = replace(found, images=resized)
    else:
        found = read_images(spec, resolution=resolution, skip_unreadable=skip_unreadable, latents=True)
    indices = np.arange(len(found.images))
    if wanted is not None:
        indices = indices_of_classes(found, wanted, spec)
    for chosen in choose:
        indices = indices[chosen(len(indices), None if found.labels is None else found.labels.numpy()[indices])]
    provenance = {
        "spec": spec,
        "file": None if spec.startswith((digits.PREFIX, hub.PREFIX)) else Path(location).resolve().name,
        "kind": "synthetic" if synthetic else "real",
        "subset": [
            *([f"classes:{classes}"] if classes is not None else []),
            *([subset] if subset is not None else []),
        ],
        "skipped": len(found.skipped),
        "manifest": manifest,
    }
    images, labels, names = taken(found, indices)
    return replace(found, images=images, labels=labels, names=names), provenance


def _manifest(spec: str) -> dict[str, Any] | None:
    if spec.startswith(digits.PREFIX):
        return digits.digits_manifest(spec)
    return None if spec.startswith(hub.PREFIX) else read_manifest(spec)


def indices_of_classes(found: Labelled, wanted: frozenset[str], where: str) -> np.ndarray:
    """The images of a set whose class is wanted: indices, int64, ascending.

    Raises:
        UsageError: the set has no labels, or no such image.
    """
    if found.labels is None:
        why = f" ({found.unlabelled})" if found.unlabelled else ""
        raise UsageError(f"{where}: has no class labels to choose from{why}")
    return of_classes(found.labels.numpy(), found.class_names, wanted, where)


def taken(found: Labelled, indices: np.ndarray) -> tuple[Tensor, Tensor | None, tuple[str, ...] | None]:
    """Images, labels and names of files at ``indices``; the tensors themselves when that is all of them."""
    if len(indices) == len(found.images):
        return found.images, found.labels, found.names
    chosen = torch.from_numpy(indices)
    names = None if found.names is None else tuple(found.names[index] for index in indices.tolist())
    return found.images[chosen], None if found.labels is None else found.labels[chosen], names
