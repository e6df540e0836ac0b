"""Several sources as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nomadiff.data import image_cache
from nomadiff.data.image_set import ImageSet
from nomadiff.data.image_source import ImageSource
from nomadiff.data.labels import named_labels, vocabulary
from nomadiff.data.latents import alike
from nomadiff.data.mapped import chunks, content_hash, let_go
from nomadiff.errors import UsageError

__all__ = ["require_equal_kinds", "union"]

_ROWS = 1024  # images copied at a time from one file to another


def union(name: str, sources: Sequence[ImageSource]) -> ImageSource:
    """Join sources into one, in order. It is real only if all are; it has labels, matched by name, only if all have.

    Raises:
        UsageError: nothing to join, or shapes differ.
    """
    if not sources:
        raise UsageError(f"{name}: a union needs at least one source")
    require_equal_kinds(sources)
    labels, names, unlabelled = None, None, next((s.unlabelled for s in sources if s.labels is None), None)
    if all(source.labels is not None for source in sources):
        classes = vocabulary([source.class_counts for source in sources])
        numbers = torch.cat([source.labels_among(classes) for source in sources])
        joined = named_labels(numbers.numpy(), classes, name)
        labels, names = joined.tensor(), joined.names
    kinds = {source.provenance.get("kind") for source in sources}
    return ImageSource(
        name,
        _one_after_another([source.images for source in sources]),
        labels,
        {
            "kind": "real" if kinds == {"real"} else "synthetic",
            "union": [{"name": source.name, **source.provenance} for source in sources],
        },
        sources[0].latents,
        names,
        unlabelled,
    )


def _one_after_another(parts: Sequence[Tensor]) -> Tensor:
    """Images of several sets: in memory, or in a file of the cache where they are too many for that."""
    shape = (sum(map(len, parts)), max(part.shape[1] for part in parts), *parts[0].shape[2:])
    if math.prod(shape) * parts[0].element_size() <= image_cache.LARGEST_HELD:
        return torch.cat(alike(parts))
    hashes = [content_hash(part) for part in parts]
    room = image_cache.Room({"where": f"a union of {', '.join(hashes)}"}, lambda: hashes)

    def fill(out: np.ndarray) -> ImageSet:
        start = 0
        for part in parts:
            for some in chunks(part, _ROWS):
                here = out[start : start + len(some)]
                here[:, : some.shape[1]], here[:, some.shape[1] :] = some.numpy(), 0  # as alike() does
                start += len(some)
                let_go(out)
        return ImageSet(torch.from_numpy(out), None, None)

    found = room.found()
    if found is None:
        found = room.hold(shape, parts[0].numpy().dtype, fill)
    return found.images


def require_equal_kinds(sources: Sequence[ImageSource]) -> None:
    """Check that sources can be in one set: all images of one shape, or all latents of one space.

    Raises:
        UsageError: names the two that differ.
    """
    first = sources[0]
    for source in sources[1:]:
        if (first.latents is None) != (source.latents is None):
            images, latents = (first, source) if first.latents is None else (source, first)
            raise UsageError(
                f"{images.name} holds images but {latents.name} holds latents: encode both (nomadiff encode --like)"
            )
        if first.latents is not None and source.latents is not None:
            if difference := first.latents.difference(source.latents):
                told = f"{first.name} and {source.name} are latents of {difference}"
                raise UsageError(f"{told}: encode one of them like the other (nomadiff encode --like)")
        elif source.channels != first.channels:
            colours = {1: "grey", 3: "RGB"}
            told = f"{first.name} is {colours[first.channels]} but {source.name} is {colours[source.channels]}"
            raise UsageError(f"{told}; convert one of them")
        if source.resolution != first.resolution:
            told = f"{first.name} is {first.resolution}x{first.resolution} but {source.name} is "
            raise UsageError(f"{told}{source.resolution}x{source.resolution}; pass --resolution N to resize them")
