"""The images of one set, with what its files say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nomadiff.data.latents import LatentSpace

__all__ = ["ImageSet"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory, or mapped into it (:mod:`nomadiff.data.mapped`).

    Attributes:
        images: uint8 ``(N, C, H, W)``, C 1 (grey) or 3 (RGB), H = W; of latents float16, raw: means and standard
            deviations ``(N, 2 C, h, w)``, or ``(N, C, h, w)`` that a model drew.
        labels: int64 ``(N,)`` class labels, or None.
        names: relative names of the files the images came from; None for arrays.
        skipped: names of files left out because they could not be read.
        latents: the space of latents; None for images.
        class_names, unlabelled: ``names`` and ``absent`` of :class:`~nomadiff.data.labels.Labels`.
        manifest: what a sample set records about itself; None if it has none, or was not asked.
        note: what is warned of whenever the set is read: which files were left out, and why.
    """

    images: Tensor
    labels: Tensor | None
    names: Sequence[str] | None
    skipped: tuple[str, ...] = ()
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] | None = None
    unlabelled: str | None = None
    manifest: dict[str, Any] | None = None
    note: str = ""
