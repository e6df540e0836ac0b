"""Every image knows where it came from: a source is a named origin of images.

What is said of images holds for latents (:mod:`nomadiff.data.latents`) too.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.arrays import fit_array
from nomadiff.data.image_set import ImageSet
from nomadiff.data.in_memory import images_in_array, images_in_dataset
from nomadiff.data.labels import Labels, class_names_of
from nomadiff.data.latents import LatentSpace
from nomadiff.data.manifest import is_synthetic
from nomadiff.data.mapped import InFile, content_hash, in_file
from nomadiff.data.selected_images import read_selected, taken
from nomadiff.data.selection import Part
from nomadiff.errors import DataError, UsageError
from nomadiff.pictures import html_grid

__all__ = ["ImageSource", "pixels_of", "spec_text"]

_SHOWN = 16  # images of a source in a notebook


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images of one origin, held once, in memory or in a mapped file: as uint8, or in latent space as float16.

    Attributes:
        name: what reports and tables call it.
        images: uint8 ``(N, C, S, S)``, C 1 or 3, N at least 1; of latents float16 or float32, raw: means and standard
            deviations ``(N, 2 C, S, S)``, or ``(N, C, S, S)`` that a model drew. Not to be written to.
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
        names: name of each image's file, relative to the folder or archive; None where there are no files.

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
    names: Sequence[str] | None = None

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
        if self.names is not None and len(self.names) != len(self):
            raise UsageError(f"{self.name}: {len(self)} images and {len(self.names)} names of files")
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
        found, provenance = read_selected(
            str(spec),
            synthetic=synthetic,
            resolution=resolution,
            subset=subset,
            classes=classes,
            allow_synthetic_as_real=allow_synthetic_as_real,
            skip_unreadable=skip_unreadable,
        )
        named = (found.class_names, found.unlabelled, found.names)
        return cls(name, found.images, found.labels, provenance, found.latents, *named)

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
        part, source = Part(classes, subset), self
        if resolution not in (None, self.resolution):
            if self.latents is not None:
                raise UsageError(f"{self.name} holds latents, which cannot be resized")
            source = replace(source, images=torch.from_numpy(fit_array(self.images.numpy(), resolution, self.name)))
        if part.steps:
            source = source._selected(part)
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
        # as arrays: torch hands tensors to other processes through shared memory, of which containers have little;
        # of a mapped tensor only where its file is
        state = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        return state | ({"images": file} if (file := in_file(self.images)) is not None else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in state.items() if isinstance(value, np.ndarray)}
        if isinstance(file := state["images"], InFile):
            try:
                tensors["images"] = file.open()
            except (OSError, ValueError) as error:
                told = f"{file.path}: the decoded images are gone or damaged ({error})"
                raise DataError(f"{told}; run the same command again") from error
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
        return content_hash(self.images)

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
        return self._selected(Part(subset=f"first:{count}"))

    def random(self, count: int, seed: int = 0) -> ImageSource:
        """``count`` images drawn without replacement, in their old order; a function of (size of the set, seed).

        Raises:
            UsageError: there are fewer, ``count`` is below 1, or ``seed`` negative.
        """
        return self._selected(Part(subset=f"random:{count}:{seed}"))

    def with_classes(self, classes: str) -> ImageSource:
        """The images of these classes (``0-7``, ``0,2,5-7``, ``cat,dog``). Labels keep their numbers.

        Raises:
            UsageError: no labels, a malformed range, or no such image.
        """
        return self._selected(Part(classes))

    def _selected(self, part: Part) -> ImageSource:
        numbers = None if self.labels is None else self.labels.numpy()
        indices = part.indices(len(self), Labels(numbers, self.class_names, self.unlabelled), self.name)
        return self._taken(indices, part.steps)

    def chosen(self, indices: np.ndarray, step: str) -> ImageSource:
        """The images at these indices (int64, ascending); ``step`` says in the provenance how they were chosen."""
        return self._taken(None if len(indices) == len(self) else indices, [step])

    def _taken(self, indices: np.ndarray | None, steps: Sequence[str]) -> ImageSource:
        images, labels, names = taken(self, indices)
        provenance = {**self.provenance, "subset": [*self.provenance.get("subset", []), *steps]}
        return replace(self, images=images, labels=labels, names=names, provenance=provenance)


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
