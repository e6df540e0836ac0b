"""Every image knows where it came from: a source is a named origin of images, a mix is one real and some synthetic.

What is said of images holds for latents (:mod:`nomadiff.data.latents`) too.
"""

from __future__ import annotations

import copy
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nomadiff.data import digits, hub
from nomadiff.data.arrays import fit_array
from nomadiff.data.choice import parse_choice
from nomadiff.data.images import ImageSet, read_images
from nomadiff.data.in_memory import images_in_array, images_in_dataset
from nomadiff.data.interleave import Interleave, ShuffledEpochs, exact_shares
from nomadiff.data.labels import class_names_of, listed, named_labels, vocabulary
from nomadiff.data.latents import LatentSpace, alike
from nomadiff.data.manifest import is_synthetic, read_manifest
from nomadiff.data.selection import of_classes, parse_classes, parse_subset
from nomadiff.errors import UsageError
from nomadiff.pictures import html_grid, html_table

__all__ = ["Batch", "ImageSource", "SourceMix", "parse_named", "pixels_of", "spec_text", "union"]

_SHOWN = 16  # images of a source in a notebook


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images of one origin, held once in memory: as uint8, or in latent space as float16.

    Attributes:
        name: what reports and tables call it.
        images: uint8 ``(N, C, S, S)``, C 1 or 3, N at least 1; of latents float16 or float32, raw: means and standard
            deviations ``(N, 2 C, S, S)``, or ``(N, C, S, S)`` that a model drew.
        labels: int64 ``(N,)`` class labels, or None.
        provenance: where the images came from, plain values fit for JSON: ``spec`` and ``file`` (what was opened),
            ``kind`` ("real" or "synthetic"), ``subset`` (the choices made, in order), ``skipped`` (how many unreadable
            files were left out), ``manifest`` (of the set, or None). ``count``, ``content_hash`` and, with labels,
            ``labels_hash`` and ``classes`` (images of each) are added here, so that they are always those of
            ``images`` and ``labels``.
        latents: the space of latents; None for images.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers. Without labels the
            one name that may be the class of all images.
        unlabelled: why there are no labels, if that is known.

    Raises:
        UsageError: images or labels of another shape or type.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    provenance: dict[str, Any]
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] | None = None
    unlabelled: str | None = None

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.images.shape), self.images.dtype
        kinds: tuple[torch.dtype, ...]
        if self.latents is None:
            wanted, channels, kinds = "images must be uint8 (N, 1 or 3, S, S)", (1, 3), (torch.uint8,)
        else:
            channels, kinds = (self.latents.channels, 2 * self.latents.channels), (torch.float16, torch.float32)
            wanted = f"latents must be float16 or float32 (N, {channels[0]} or {channels[1]}, S, S)"
        if dtype not in kinds or len(shape) != 4 or shape[1] not in channels or shape[2] != shape[3]:
            raise UsageError(f"{self.name}: {wanted}, got {dtype} {shape}")
        if len(self) == 0:
            raise UsageError(f"{self.name}: no images")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (len(self),)):
            raise UsageError(f"{self.name}: labels must be int64 ({len(self)},), got {tuple(self.labels.shape)}")
        facts: dict[str, Any] = {"count": len(self), "content_hash": self.content_hash}
        if self.labels is not None:
            lowest, highest = int(self.labels.min()), int(self.labels.max())
            if lowest < 0 or (self.class_names is not None and highest >= len(self.class_names)):
                raise UsageError(f"{self.name}: labels {lowest}..{highest} are not all classes of the set")
            facts |= {"labels_hash": self.labels_hash, "classes": self.class_counts}
        object.__setattr__(self, "provenance", {**self.provenance, **facts})

    @classmethod
    def open(
        cls,
        spec: str | Path | ImageSource,
        *,
        name: str,
        synthetic: bool,
        resolution: int | None = None,
        subset: str | None = None,
        classes: str | None = None,
        allow_synthetic_as_real: bool = False,
        skip_unreadable: bool = False,
    ) -> ImageSource:
        """Read a source.

        Args:
            spec: anything :func:`~nomadiff.data.images.read_images` reads, or a built-in set (``digits:pool``, ...; see
                :mod:`nomadiff.data.digits`); or a source that is open already, which is taken as a set read is.
            name: name of the source.
            synthetic: whether the images are made by a model.
            resolution: side in pixels to crop and resize to; None keeps sizes.
            subset: ``first:N``, ``range:START:STOP``, ``random:N``, ``random:N:SEED`` or ``each:N`` (of every class),
                taken after ``classes``.
            classes: keep only these classes (``0-7``, ``0,2,5-7``, ``cat,dog``); labels keep their numbers.
            allow_synthetic_as_real: accept a set with a synthetic manifest as real.
            skip_unreadable: leave out files that cannot be read.

        Raises:
            UsageError: a set that says it is synthetic is opened as real; a malformed or too large selection.
            DataError: as :func:`~nomadiff.data.images.read_images`.
        """
        if isinstance(spec, ImageSource):
            return spec._opened(name, synthetic, resolution, subset, classes, allow_synthetic_as_real)
        if not isinstance(spec, (str, os.PathLike)):
            raise UsageError(
                f"{name}: open reads files, and this is a {type(spec).__name__}: give arrays and tensors to "
                "ImageSource.from_array, a Dataset or another iterable of images to ImageSource.from_dataset"
            )
        spec = str(spec)
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
            indices = _of_classes(found, wanted, spec)
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
        images, labels = _taken(found, indices)
        return cls(name, images, labels, provenance, found.latents, found.class_names, found.unlabelled)

    @classmethod
    def from_array(
        cls,
        images: Tensor | np.ndarray,
        *,
        name: str,
        synthetic: bool,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        resolution: int | None = None,
    ) -> ImageSource:
        """A source of images in memory; they are copied.

        Args:
            images: uint8 ``(N, H, W, C)``, ``(N, C, H, W)`` or, grey, ``(N, H, W)``; C is 1 or 3.
            name: name of the source.
            synthetic: whether the images are made by a model.
            labels: integers ``(N,)`` in 0..999,999, or None.
            class_names: name of label ``k`` at place ``k``; None if classes are known by their numbers.
            resolution: side in pixels to crop and resize to; None asks for squares.

        Raises:
            DataError: another type or shape, or labels that do not fit.
        """
        return cls._in_memory(images_in_array(images, name, labels, class_names, resolution), name, synthetic, "array")

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Any],
        *,
        name: str,
        synthetic: bool,
        class_names: Sequence[str] | None = None,
        resolution: int | None = None,
    ) -> ImageSource:
        """A source of the images of a data set, all read into memory.

        Args:
            dataset: a torch ``Dataset``, or any iterable, of images or ``(image, label)``. An image is a Pillow image,
                or an array or tensor ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` of uint8 or of floats that are
                bytes / 255 (torchvision's ``ToTensor``). A label is an integer or a name.
            name: name of the source.
            synthetic: whether the images are made by a model.
            class_names: name of label ``k`` at place ``k``; by default the data set's ``classes``, where it has such.
            resolution: side in pixels to crop and resize to; None asks for squares of one size.

        Raises:
            DataError: an item that is no such image, mixed sizes, or labels that do not fit; the item is named.
        """
        found = images_in_dataset(dataset, name, class_names, resolution)
        return cls._in_memory(found, name, synthetic, type(dataset).__name__)

    @classmethod
    def _in_memory(cls, found: ImageSet, name: str, synthetic: bool, what: str) -> ImageSource:
        facts: dict[str, Any] = {
            "spec": f"{what} in memory",
            "file": None,
            "kind": "synthetic" if synthetic else "real",
        }
        facts |= {"subset": [], "skipped": 0, "manifest": None}
        return cls(name, found.images, found.labels, facts, None, found.class_names, found.unlabelled)

    def _opened(
        self,
        name: str,
        synthetic: bool,
        resolution: int | None,
        subset: str | None,
        classes: str | None,
        allow_synthetic_as_real: bool,
    ) -> ImageSource:
        """As :meth:`open` does with a set that it has read."""
        made = self.provenance.get("kind") == "synthetic" or is_synthetic(self.provenance.get("manifest"))
        if made and not synthetic and not allow_synthetic_as_real:
            told = f"{self.name}: this source is synthetic, and is given as real"
            raise UsageError(f"{told}; pass allow_synthetic_as_real if that is meant")
        source = self
        if resolution not in (None, self.resolution):
            if self.latents is not None:
                raise UsageError(f"{self.name} holds latents, which cannot be resized")
            source = replace(source, images=torch.from_numpy(fit_array(self.images.numpy(), resolution, self.name)))
        if classes is not None:
            source = source.with_classes(classes)
        if subset is not None:
            labels = None if source.labels is None else source.labels.numpy()
            source = source._selected(parse_subset(subset)(len(source), labels), subset)
        kind = "synthetic" if synthetic else "real"
        if (source.name, source.provenance.get("kind")) == (name, kind):
            return source
        return replace(source, name=name, provenance={**source.provenance, "kind": kind})

    def __repr__(self) -> str:
        what = "images" if self.latents is None else "latents"
        size = "x".join(map(str, (self.channels, self.resolution, self.resolution)))
        classes = f", {len(self.class_counts)} classes" if self.labels is not None else ""
        kind = self.provenance.get("kind", "of unknown origin")
        return f"ImageSource('{self.name}', {kind}, {len(self):,} {what} of {size}{classes})"

    def _repr_html_(self) -> str:
        grid = "" if self.latents is not None else html_grid(self.images[:_SHOWN], columns=_SHOWN // 2)
        return f"{html.escape(repr(self))}<br>{grid}"

    def __getstate__(self) -> dict[str, Any]:
        # as arrays: torch hands tensors to other processes through shared memory, of which containers have little
        return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in state.items() if isinstance(value, np.ndarray)}
        vars(self).update(state | tensors)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixels(self) -> Tensor:
        """The images, uint8 ``(N, C, S, S)``, for metrics, detectors and classifiers.

        Raises:
            UsageError: the source holds latents.
        """
        if self.latents is not None:
            raise UsageError(
                f"{self.provenance.get('spec', self.name)} holds latents where images are needed: what is judged are "
                "images, which a model of latents decodes as it draws them"
            )
        return self.images

    @property
    def resolution(self) -> int:
        """Side of the images in pixels, or of the latents."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB; of latents those that a network sees."""
        return self.images.shape[1] if self.latents is None else self.latents.channels

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the shape and the bytes of the images: 64 hexadecimal digits. Labels and names do not enter."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """How many images each class has, by name, in the order of the labels; empty without labels."""
        return {} if self.labels is None else class_names_of(self.labels.numpy(), self.class_names)

    @cached_property
    def labels_hash(self) -> str | None:
        """SHA-256 of the class names image by image: 64 hexadecimal digits; None without labels."""
        if self.labels is None:
            return None
        names = sorted(self.class_counts)
        digest = hashlib.sha256(json.dumps(names).encode())
        digest.update(self.labels_among(names).numpy().data)
        return digest.hexdigest()

    def labels_among(self, class_names: Sequence[str]) -> Tensor:
        """The labels as indices into ``class_names``, which has the names of all classes here: int64 ``(N,)``."""
        assert self.labels is not None
        place = {name: index for index, name in enumerate(class_names)}
        places = torch.tensor([place[name] for name in self.class_counts])
        return places[torch.unique(self.labels, return_inverse=True)[1]]

    def first(self, count: int) -> ImageSource:
        """The first ``count`` images.

        Raises:
            UsageError: there are fewer, or ``count`` is below 1.
        """
        return self._selected(parse_subset(f"first:{count}")(len(self), None), f"first:{count}")

    def random(self, count: int, seed: int = 0) -> ImageSource:
        """``count`` images drawn without replacement, in their old order; a function of (size of the set, seed).

        Raises:
            UsageError: there are fewer, ``count`` is below 1, or ``seed`` negative.
        """
        step = f"random:{count}:{seed}"
        return self._selected(parse_subset(step)(len(self), None), step)

    def with_classes(self, classes: str) -> ImageSource:
        """The images of these classes (``0-7``, ``0,2,5-7``, ``cat,dog``). Labels keep their numbers.

        Raises:
            UsageError: no labels, a malformed range, or no such image.
        """
        indices = _of_classes(self, parse_classes(classes), self.name)
        return self._selected(indices, f"classes:{classes}")

    def _selected(self, indices: np.ndarray, step: str) -> ImageSource:
        images, labels = _taken(self, indices)
        provenance = {**self.provenance, "subset": [*self.provenance.get("subset", []), step]}
        return replace(self, images=images, labels=labels, provenance=provenance)


def union(name: str, sources: Sequence[ImageSource]) -> ImageSource:
    """Join sources into one, in order. It is real only if all are; it has labels, matched by name, only if all have.

    Raises:
        UsageError: nothing to join, or shapes differ.
    """
    if not sources:
        raise UsageError(f"{name}: a union needs at least one source")
    _require_equal_kinds(sources)
    labels, names, unlabelled = None, None, next((s.unlabelled for s in sources if s.labels is None), None)
    if all(source.labels is not None for source in sources):
        classes = vocabulary([source.class_counts for source in sources])
        numbers = torch.cat([source.labels_among(classes) for source in sources])
        joined = named_labels(numbers.numpy(), classes, name)
        labels, names = joined.tensor(), joined.names
    kinds = {source.provenance.get("kind") for source in sources}
    return ImageSource(
        name,
        torch.cat(alike([source.images for source in sources])),
        labels,
        {
            "kind": "real" if kinds == {"real"} else "synthetic",
            "union": [{"name": source.name, **source.provenance} for source in sources],
        },
        sources[0].latents,
        names,
        unlabelled,
    )


def pixels_of(images: Tensor | ImageSource, name: str, synthetic: bool) -> Tensor:
    """Images as a tensor, uint8 ``(N, C, S, S)``, whether they are one or a source of images.

    Raises:
        UsageError: a source of latents, or a synthetic one where real images are needed.
    """
    return (
        ImageSource.open(images, name=name, synthetic=synthetic).pixels if isinstance(images, ImageSource) else images
    )


def spec_text(spec: str | Path | ImageSource) -> str:
    """What a message calls a set: its path, or what a source was opened from."""
    return str(spec.provenance.get("spec", spec.name) if isinstance(spec, ImageSource) else spec)


def parse_named(spec: str) -> tuple[str | None, str]:
    """Split ``[name=]path``: the name, or None, and the path.

    What exists under the whole text is a path, and so is anything whose part before ``=`` could not be a name
    (``runs/lr=0.1/samples``).

    Raises:
        UsageError: nothing after ``name=``.
    """
    name, equals, path = spec.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or Path(spec).exists():
        return None, spec
    if not path:
        raise UsageError(f"{spec!r}: expected name=path")
    return name, path


class Batch(NamedTuple):
    """Images of a mix.

    Attributes:
        images: uint8 ``(count, C, S, S)``, or latents as their source stores them; :meth:`SourceMix.clean` makes of
            both what networks are trained on.
        source: int64 ``(count,)``: 0 is real, 1..K the synthetic sources in order.
        labels: int64 ``(count,)``, indices into the mix's ``class_names``; None if it has no classes.
    """

    images: Tensor
    source: Tensor
    labels: Tensor | None


class SourceMix:
    """One real source (label 0) and any number of synthetic ones (labels 1..K), as an endless stream of images.

    The default shares are those of CASD eq. 5: every image counts once, so the real share is n / (n + m).

    Args:
        real: the real source.
        synthetic: the synthetic ones; names must differ.
        real_fraction: share of real images, strictly between 0 and 1. The synthetic sources divide the rest.
        weights: relative shares of the synthetic sources, positive, one each; their sizes unless given.

    Attributes:
        sources: all sources, the real one first.
        real_fraction, weights: as given.
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
        provenance: one mapping a source: its ``label``, ``name`` and ``share``, and its own provenance.

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
    ) -> None:
        self.sources = (real, *(_of_one_class(source, real) for source in synthetic))
        self.real_fraction, self.weights = real_fraction, None if weights is None else tuple(weights)
        self.names = tuple(source.name for source in self.sources)
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise UsageError(f"two sources are called {twice!r}; name them: --synthetic NAME=PATH")
        _require_equal_kinds(self.sources)
        shares = exact_shares([len(source) for source in self.sources], real_fraction, weights)
        self.shares = np.array([float(share) for share in shares])
        self.resolution = real.resolution
        self.channels = real.channels
        self.latents = real.latents
        self._use_classes(vocabulary([source.class_counts for source in self.sources]))
        self._interleave = Interleave(shares)
        self._orders = [ShuffledEpochs(len(source), stream) for stream, source in enumerate(self.sources)]

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
        return [
            {"label": label, "name": source.name, "share": float(self.shares[label]), **source.provenance}
            for label, source in enumerate(self.sources)
        ]

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
        source, ordinal = self._interleave.place(np.arange(start, start + count, dtype=np.int64))
        places = [np.flatnonzero(source == number) for number in range(len(self.sources))]
        chosen = [torch.from_numpy(order.indices(ordinal[where], seed)) for order, where in zip(self._orders, places)]
        # gathered source by source, then put in their places: index_select copies whole images, several times as fast
        # as writing to images[where] (measured)
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        images = [origin.images.index_select(0, which) for origin, which in zip(self.sources, chosen)]
        labels = [of_source.index_select(0, which) for of_source, which in zip(self._labels, chosen)]
        return Batch(
            torch.cat(alike(images)).index_select(0, back),
            torch.from_numpy(source),
            torch.cat(labels).index_select(0, back) if self.classes else None,
        )

    def clean(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The input of training: images in [-1, 1]; of latents a fresh sample of each posterior.

        Args:
            images: of a batch or a part of it, on the device to train on.
            generator: where the noise of latents comes from, on the same device; images take none.

        Returns:
            float32 ``(count, C, S, S)``.
        """
        return images.float() / 127.5 - 1 if self.latents is None else self.latents.draw(images, generator)


def _manifest(spec: str) -> dict[str, Any] | None:
    if spec.startswith(digits.PREFIX):
        return digits.digits_manifest(spec)
    return None if spec.startswith(hub.PREFIX) else read_manifest(spec)


def _of_one_class(source: ImageSource, real: ImageSource) -> ImageSource:
    """A source that is one folder of images has their class, if the real source knows it."""
    if source.labels is not None or not source.class_names or source.class_names[0] not in real.class_counts:
        return source
    labels = named_labels(np.zeros(len(source), dtype=np.int64), source.class_names, source.name)
    return replace(source, labels=labels.tensor(), class_names=labels.names)


def _of_classes(found: ImageSet | ImageSource, wanted: frozenset[str], where: str) -> np.ndarray:
    if found.labels is None:
        why = f" ({found.unlabelled})" if found.unlabelled else ""
        raise UsageError(f"{where}: has no class labels to choose from{why}")
    return of_classes(found.labels.numpy(), found.class_names, wanted, where)


def _taken(found: ImageSet | ImageSource, indices: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Images and labels at ``indices``; the tensors themselves when that is all of them."""
    if len(indices) == len(found.images):
        return found.images, found.labels
    chosen = torch.from_numpy(indices)
    return found.images[chosen], None if found.labels is None else found.labels[chosen]


def _require_equal_kinds(sources: Sequence[ImageSource]) -> None:
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
