"""The images of a held-out loss: opened or set apart, and kept from what is trained on."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace

import numpy as np
import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.mapped import chunks
from nomadiff.data.reading import Reading
from nomadiff.data.selection import shuffled
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.monitoring.settings import Monitoring
from nomadiff.training.config import RunConfig, ValidationImages
from nomadiff.training.held_out_loss import FixedImages

__all__ = ["fixed_images", "opened", "set_apart", "told_in_recipe"]

_TAG = 0x7A11D  # keeps the draw of these images apart from every other use of the same seed
_MOST = 1024  # images of a set that the loss is measured on: each snapshot costs about as much as 1,400 training images


def opened(monitoring: Monitoring, spec: Reading, mix: SourceMix) -> Monitoring:
    """The settings with the validation images read as the training images are, where they are no share of these.

    Args:
        monitoring: the settings.
        spec: how the training images are read.
        mix: the training images.

    Raises:
        UsageError, DataError: as :meth:`~nomadiff.data.reading.Reading.read`.
    """
    given = monitoring.validation
    if not isinstance(given, str) or monitoring.share is not None:
        return monitoring
    size = None if mix.latents is not None else mix.resolution
    return replace(monitoring, validation=spec.read(given, "validation", resolution=size))


def set_apart(monitoring: Monitoring | None, mix: SourceMix, seed: int) -> tuple[Monitoring | None, SourceMix]:
    """The settings with the validation images themselves, and the mix to train on, which holds none of these.

    Calling it again with what it gave changes nothing.

    Args:
        monitoring: where the images come from.
        mix: the sources before anything is set apart.
        seed: seed of the training, which decides what is set apart.

    Raises:
        UsageError: too few images, images of another kind, or of the training set only.
        DataError: the images cannot be read.

    Warns:
        NomadiffWarning: some of them are in the training set; they are left out.
    """
    if monitoring is None or monitoring.validation is None:
        return monitoring, mix
    given, real = monitoring.validation, mix.sources[0]
    if (share := monitoring.share) is not None:
        count = round(share * len(real))
        if not 0 < count < len(real):
            raise UsageError(f"{share:g} of {len(real)} real images is {count}: too few to set apart and to train on")
        apart = np.sort(shuffled(len(real), _TAG, seed)[:count])
        rest = np.setdiff1d(np.arange(len(real)), apart)
        learned = real.chosen(rest, f"without-validation:{share:g}:{seed}")
        mix = SourceMix(learned, mix.sources[1:], real_fraction=mix.real_fraction, weights=mix.weights)
        source = replace(real.chosen(apart, f"validation:{share:g}:{seed}"), name="validation")
    else:
        assert isinstance(given, str | ImageSource)
        size = None if mix.latents is not None else mix.resolution
        source = ImageSource.open(given, name="validation", synthetic=False, resolution=size)
        if (source.channels, source.resolution, source.latents) != (mix.channels, mix.resolution, mix.latents):
            shapes = [f"{each.channels}x{each.resolution}x{each.resolution}" for each in (source, mix)]
            raise UsageError(f"--validation has images of {shapes[0]}, the training set of {shapes[1]}")
        source = _without_copies(source, real)
    return replace(monitoring, validation=source), mix


def _without_copies(source: ImageSource, real: ImageSource) -> ImageSource:
    """Validation images that no training image equals byte for byte."""
    learned = set(_hashes(real))
    kept = np.array([index for index, each in enumerate(_hashes(source)) if each not in learned], dtype=np.int64)
    if len(kept) == len(source):
        return source
    if not len(kept):
        raise UsageError("--validation holds nothing but training images: give others, or a share such as 0.1")
    left_out = len(source) - len(kept)
    warnings.warn(f"{left_out:,} of the validation images are training images: left out", NomadiffWarning, stacklevel=2)
    return source.chosen(kept, f"{left_out} training images left out")


def _hashes(source: ImageSource) -> list[bytes]:
    parts = chunks(source.images, 4096)
    return [hashlib.sha256(image.tobytes()).digest() for part in parts for image in part.contiguous().numpy()]


def told_in_recipe(monitoring: Monitoring) -> ValidationImages | None:
    """What the recipe says of validation images that were set apart."""
    source = monitoring.validation
    return ValidationImages(len(source), source.content_hash) if isinstance(source, ImageSource) else None


def fixed_images(source: ImageSource, label: int, config: RunConfig, count: int = _MOST) -> FixedImages:
    """Images of a source to measure the loss on, at most ``count`` and at most 1,024: always the same.

    Args:
        source: the source.
        label: its label among the sources.
        config: the recipe.
        count: how many at most.

    Raises:
        UsageError: the model is class-conditional and the images have no labels, or a class it does not know.
    """
    indices = torch.from_numpy(np.sort(shuffled(len(source), _TAG, config.training.seed, label)[: min(count, _MOST)]))
    labels = None
    if config.classes:
        if source.labels is None:
            raise UsageError(f"class labels are needed, but the {source.name} images have none")
        if unknown := [name for name in source.class_counts if name not in config.vocabulary]:
            raise UsageError(f"the {source.name} images have the class '{unknown[0]}', which the training set has not")
        labels = source.labels_among(config.vocabulary)[indices]
    return FixedImages(source.images[indices], label, labels)
