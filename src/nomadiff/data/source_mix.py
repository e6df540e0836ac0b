"""A mix is one real source and some synthetic ones: what a model is trained on, as a stream of images.

What is said of images holds for latents (:mod:`nomadiff.data.latents`) too.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.interleave import Interleave, ShuffledEpochs, exact_shares
from nomadiff.data.labels import listed, named_labels, vocabulary
from nomadiff.data.latents import alike
from nomadiff.data.mapped import chunks, rows
from nomadiff.data.source_union import require_equal_kinds
from nomadiff.devices import sent
from nomadiff.errors import UsageError
from nomadiff.pictures import html_table

__all__ = ["Batch", "SourceMix"]

_AT_ONCE = 10_000  # images copied to a device together


class Batch(NamedTuple):
    """Images of a mix.

    Attributes:
        images: uint8 ``(count, C, S, S)``, or latents as their source stores them, where the mix has its images;
            :meth:`SourceMix.clean` makes of both what networks are trained on.
        source: int64 ``(count,)``: 0 is real, 1..K the synthetic sources in order.
        labels: int64 ``(count,)``, indices into the mix's ``class_names``; None if it has no classes.
        floors: float32 ``(count,)``: the noise level sigma below which each image does not teach, 0 for one that always
            does; None if all do.
    """

    images: Tensor
    source: Tensor
    labels: Tensor | None
    floors: Tensor | None = None


class SourceMix:
    """One real source (label 0) and any number of synthetic ones (labels 1..K), as an endless stream of images.

    The default shares are those of CASD eq. 5: every image counts once, so the real share is n / (n + m).

    Args:
        real: the real source.
        synthetic: the synthetic ones; names must differ.
        real_fraction: share of real images, strictly between 0 and 1. The synthetic sources divide the rest.
        weights: relative shares of the synthetic sources, positive, one each; their sizes unless given.
        floors: for each synthetic source the noise level sigma below which each of its images does not teach (the
            ambient method): float32 ``(N,)``, not negative. None if all images teach at every level.
        frequencies: for each synthetic source how often each of its images is drawn, relative to one another: float
            ``(N,)``, positive, of few different values. None if all are drawn equally often.

    Attributes:
        sources: all sources, the real one first.
        real_fraction, weights: as given.
        floors: float32 ``(N,)`` for every source, the real one's 0; empty if none were given.
        names: their names.
        shares: float64 ``(K + 1,)``, summing to 1.
        resolution: side of the images in pixels, or of the latents.
        channels: 1 or 3; of latents those that a network sees.
        latents: the space of latents; None for images.
        class_names: the classes, matched between sources by name: those of the real source in its order, then what
            others add. Empty if a source has no labels, or a synthetic one no class of the real one's. A synthetic
            source whose images all lie in one folder is of that class, if the real source has it.
        classes: how many.
        class_counts: for each source how many images each class has.
        provenance: one mapping a source: its ``label``, ``name`` and ``share``, and its own provenance; with floors
            their ``floors_hash`` and ``floor_median``.

    Raises:
        UsageError: sources that do not fit together, or shares that make no sense.
    """

    def __init__(
        self,
        real: ImageSource,
        synthetic: Sequence[ImageSource] = (),
        *,
        real_fraction: float | None = None,
        weights: Sequence[float] | None = None,
        floors: Sequence[Tensor] | None = None,
        frequencies: Sequence[Tensor] | None = None,
    ) -> None:
        self.sources = (real, *(_of_one_class(source, real) for source in synthetic))
        self.real_fraction, self.weights = real_fraction, None if weights is None else tuple(weights)
        self._images = [source.images for source in self.sources]
        self.names = tuple(source.name for source in self.sources)
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise UsageError(f"two sources are called {twice!r}; name them: --synthetic NAME=PATH")
        require_equal_kinds(self.sources)
        shares = exact_shares([len(source) for source in self.sources], real_fraction, weights)
        self.shares = np.array([float(share) for share in shares])
        self.resolution = real.resolution
        self.channels = real.channels
        self.latents = real.latents
        self.floors = () if floors is None else (torch.zeros(len(real)), *(floor.float() for floor in floors))
        for source, floor in zip(self.sources, self.floors):
            if floor.shape != (len(source),) or not bool((floor >= 0).all() and floor.isfinite().all()):
                raise UsageError(f"{source.name}: floors must be {len(source):,} noise levels, none negative")
        if self.floors and len(self.floors) != len(self.sources):
            raise UsageError(f"{len(self.floors) - 1} tensors of floors for {len(synthetic)} synthetic sources")
        self._use_classes(vocabulary([source.class_counts for source in self.sources]))
        # a stream of its own for the images of a source that are drawn equally often; None stands for all of them
        self._streams: list[tuple[int, Tensor | None]] = [(0, None)]
        of_streams = [shares[0]]
        for number, share in enumerate(shares[1:], start=1):
            groups = [(None, Fraction(1))] if frequencies is None else _equally_often(frequencies[number - 1])
            self._streams += [(number, chosen) for chosen, _ in groups]
            of_streams += [share * part for _, part in groups]
        self._interleave = Interleave(of_streams)
        self._orders = [
            ShuffledEpochs(len(self.sources[number]) if chosen is None else len(chosen), stream)
            for stream, (number, chosen) in enumerate(self._streams)
        ]

    def __repr__(self) -> str:
        parts = ", ".join(f"{share:.1%} {source.name}" for share, source in zip(self.shares, self.sources))
        what = "images" if self.latents is None else "latents"
        total = sum(map(len, self.sources))
        return f"SourceMix({parts}; {total:,} {what} of {self.channels}x{self.resolution}x{self.resolution})"

    def _repr_html_(self) -> str:
        rows = [
            {"label": label, "source": source.name, "kind": source.provenance.get("kind"), "count": len(source)}
            | {"share": f"{share:.1%}", "classes": len(source.class_counts) or None}
            for label, (share, source) in enumerate(zip(self.shares, self.sources))
        ]
        grids = [source._repr_html_() for source in self.sources]
        return "<br>".join([html_table(rows), *grids])

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Origin of the images of every source, plain values fit for JSON."""
        found = [
            {"label": label, "name": source.name, "share": float(self.shares[label]), **source.provenance}
            for label, source in enumerate(self.sources)
        ]
        for entry, floor in zip(found, self.floors):
            digest = hashlib.sha256(floor.contiguous().numpy().data).hexdigest()
            entry |= {"floors_hash": digest, "floor_median": float(floor.median())}
        return found

    def _use_classes(self, class_names: tuple[str, ...]) -> None:
        self.class_names = () if self.without_classes else class_names
        self.classes = len(self.class_names)
        self.class_counts = tuple(
            tuple(source.class_counts.get(name, 0) for name in self.class_names) for source in self.sources
        )
        self._labels = [source.labels_among(class_names) for source in self.sources] if self.classes else []

    @property
    def without_classes(self) -> str | None:
        """Why the sources have no class labels in common; None if they have."""
        real = self.sources[0]
        for source in self.sources:
            if source.labels is None:
                return f"{source.name} has none" + (f" ({source.unlabelled})" if source.unlabelled else "")
            if not source.class_counts.keys() & real.class_counts.keys():
                ours, theirs = (listed(each.class_counts) for each in (source, real))
                return f"{source.name} has the classes {ours}, {real.name} has {theirs}: none by the same name"
        return None

    def with_class_names(self, class_names: Sequence[str]) -> SourceMix:
        """The same stream with labels that are indices into ``class_names``, as a model knows them.

        Raises:
            UsageError: a source has no labels, or a class that is not among the names.
        """
        if tuple(class_names) == self.class_names:
            return self
        told = self.without_classes
        if told is None and (unknown := [name for name in self.class_names if name not in set(class_names)]):
            known = listed(class_names)
            told = (
                f"the images have the classes {listed(unknown)}, the model knows {known} (classes are matched by name)"
            )
        if told is not None:
            raise UsageError(f"class labels are needed, but {told}")
        other = copy.copy(self)
        other._use_classes(tuple(class_names))
        return other

    def batch(self, start: int, count: int, seed: int) -> Batch:
        """The images at positions ``start .. start + count - 1`` of the stream that belongs to ``seed``.

        Nothing is remembered between calls: the image at a position is a function of (seed, position), so the stream
        can be cut into batches, dealt to processes, and entered anywhere. Sources are spread evenly
        (:class:`~nomadiff.data.interleave.Interleave`), and each is used up in shuffled order before it is shuffled
        anew.

        Args:
            start: first position, not negative.
            count: number of images.
            seed: not negative.
        """
        stream, ordinal = self._interleave.place(np.arange(start, start + count, dtype=np.int64))
        places = [np.flatnonzero(stream == number) for number in range(len(self._streams))]
        numbers = [number for number, _ in self._streams]
        chosen = []
        for order, where, (_, members) in zip(self._orders, places, self._streams):
            which = torch.from_numpy(order.indices(ordinal[where], seed))
            chosen.append(which if members is None else members[which])
        # gathered source by source, then put in their places: that copies whole images, several times as fast as
        # writing to images[where] (measured)
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        images = torch.cat(alike([rows(self._images[number], which) for number, which in zip(numbers, chosen)]))
        labels = [self._labels[k].index_select(0, which) for k, which in zip(numbers, chosen) if self.classes]
        floors = [self.floors[k].index_select(0, which) for k, which in zip(numbers, chosen) if self.floors]
        return Batch(
            images.index_select(0, sent(back, images.device)),
            torch.from_numpy(np.array(numbers)[stream]),
            torch.cat(labels).index_select(0, back) if self.classes else None,
            torch.cat(floors).index_select(0, back) if floors else None,
        )

    def with_images_on(self, device: torch.device) -> SourceMix:
        """The same stream from images that lie on a device; labels stay on the host."""
        other = copy.copy(self)
        other._images = [_copied(images, device) for images in self._images]
        return other

    def clean(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The input of training: images in [-1, 1]; of latents a fresh sample of each posterior.

        Args:
            images: of a batch or a part of it, on the device to train on.
            generator: where the noise of latents comes from, on the same device; images take none.

        Returns:
            float32 ``(count, C, S, S)``.
        """
        return images.float() / 127.5 - 1 if self.latents is None else self.latents.draw(images, generator)


def _copied(images: Tensor, device: torch.device) -> Tensor:
    """A copy on a device, part by part: an image file that is mapped never becomes resident as a whole."""
    copied = torch.empty(images.shape, dtype=images.dtype, device=device)
    for part, place in zip(chunks(images, _AT_ONCE), copied.split(_AT_ONCE)):
        place.copy_(part)
    return copied


def _equally_often(frequencies: Tensor) -> list[tuple[Tensor | None, Fraction]]:
    """The images of each frequency, int64, and their share of the source."""
    values, group = (frequencies / frequencies.max()).double().unique(return_inverse=True)
    if len(values) == 1:
        return [(None, Fraction(1))]
    members = [torch.nonzero(group == index)[:, 0] for index in range(len(values))]
    drawn = [
        len(chosen) * max(Fraction(value).limit_denominator(10**6), Fraction(1, 10**6))
        for chosen, value in zip(members, values.tolist())
    ]
    return [(chosen, part / sum(drawn)) for chosen, part in zip(members, drawn)]


def _of_one_class(source: ImageSource, real: ImageSource) -> ImageSource:
    """A source that is one folder of images has their class, if the real source knows it."""
    if source.labels is not None or not source.class_names or source.class_names[0] not in real.class_counts:
        return source
    labels = named_labels(np.zeros(len(source), dtype=np.int64), source.class_names, source.name)
    return replace(source, labels=labels.tensor(), class_names=labels.names)
