"""A set of images read from where it lies, with what was chosen of it and where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nomadiff.data import digits, hub
from nomadiff.data.arrays import fit_array
from nomadiff.data.choice import parse_choice
from nomadiff.data.image_cache import Room
from nomadiff.data.image_set import ImageSet
from nomadiff.data.images import read_images
from nomadiff.data.labels import Labels
from nomadiff.data.manifest import is_synthetic
from nomadiff.data.mapped import InFile, in_file, let_go, rows
from nomadiff.data.selection import Part
from nomadiff.errors import UsageError

__all__ = ["read_selected", "taken"]

_ROWS = 1024  # images copied at a time from one file to another


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
    part = Part(classes, subset)  # an error in the call comes before reading

    def accept(manifest: dict[str, Any] | None) -> None:
        if is_synthetic(manifest) and not synthetic and not allow_synthetic_as_real:
            raise UsageError(
                f"{spec}: its manifest says these images are synthetic, but they are opened as real; "
                "pass --allow-synthetic-as-real if that is meant"
            )

    if spec.startswith(digits.PREFIX):
        found = _built_in(spec, resolution, part, accept)
    else:
        found = read_images(
            spec, resolution=resolution, skip_unreadable=skip_unreadable, latents=True, part=part, accept=accept
        )
    builtin = spec.startswith((digits.PREFIX, hub.PREFIX))
    return found, {
        "spec": spec,
        "file": None if builtin else Path(parse_choice(spec).location).resolve().name,
        "kind": "synthetic" if synthetic else "real",
        "subset": part.steps,
        "skipped": len(found.skipped),
        "manifest": found.manifest,
    }


def _built_in(
    spec: str, resolution: int | None, part: Part, accept: Callable[[dict[str, Any] | None], None]
) -> ImageSet:
    manifest = digits.digits_manifest(spec)
    accept(manifest)
    found = digits.read_digits(spec)
    labels = None if found.labels is None else found.labels.numpy()
    images, numbers, names = taken(found, part.indices(len(found.images), Labels(labels), spec))
    if resolution is not None:
        images = torch.from_numpy(fit_array(images.numpy(), resolution, spec))
    return replace(found, images=images, labels=numbers, names=names, manifest=manifest)


class Labelled(Protocol):
    """Images of which some may have class labels: an image set, a source."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor | None: ...

    @property
    def names(self) -> Sequence[str] | None: ...


def taken(found: Labelled, indices: np.ndarray | None) -> tuple[Tensor, Tensor | None, Sequence[str] | None]:
    """Images, labels and names of files at ``indices``; the tensors themselves for None, all of them."""
    if indices is None:
        return found.images, found.labels, found.names
    chosen = torch.from_numpy(indices)
    names = None if found.names is None else tuple(found.names[index] for index in indices.tolist())
    file = in_file(found.images)
    images = rows(found.images, chosen) if file is None else _part_of_file(found.images, file, chosen)
    return images, None if found.labels is None else found.labels[chosen], names


def _part_of_file(images: Tensor, file: InFile, chosen: Tensor) -> Tensor:
    """Some of the images that a file holds: in memory, or in a file of their own where they are too many for that."""
    place = {"where": f"a part of {file.content_hash}", "rows": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()}
    room = Room(place, lambda: file.content_hash)

    def fill(out: np.ndarray) -> ImageSet:
        for start in range(0, len(chosen), _ROWS):
            out[start : start + _ROWS] = rows(images, chosen[start : start + _ROWS]).numpy()
            let_go(out)
        return ImageSet(torch.from_numpy(out), None, None)

    found = room.found()
    if found is None:
        found = room.hold((len(chosen), *images.shape[1:]), np.dtype(file.dtype), fill)
    return found.images
