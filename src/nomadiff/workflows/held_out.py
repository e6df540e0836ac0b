"""Held-out real images that models are scored by, before they are read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nomadiff.data.reading import AnyImages, Reading
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR, AnyDetector

if TYPE_CHECKING:
    from nomadiff.data.image_source import ImageSource
    from nomadiff.metrics.detectors.protocol import Classifier
    from nomadiff.metrics.reference import ReferenceSet
    from nomadiff.models.model import Model

__all__ = ["HeldOut", "refuse_shared"]


@dataclass(frozen=True, kw_only=True)
class HeldOut(Reading):
    """What ``improve`` and ``shift`` score by.

    Attributes:
        reference: Held-out real images to score by; without them improve needs --weight, and shift measures shares.
        detector: Feature space of the metrics: wavelets, pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        group_by: Column of the metadata that says whose an image is, such as patient: nobody is in both halves.
        allow_train_as_reference: Accept a reference that the model was trained on.
    """

    reference: AnyImages | None = None
    detector: AnyDetector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
    group_by: str | None = None
    allow_train_as_reference: bool = False

    def open(
        self, model: Model, *, train: AnyImages | None = None, classifier: Classifier | None = None
    ) -> ReferenceSet | None:
        """Read the images as large as the model draws them; None without a reference.

        Args:
            model: the model to score.
            train: the real images it was trained on, for replication.
            classifier: assigns the images to classes.

        Raises:
            UsageError, DataError: the images cannot be used as asked; or something is said of them and there are none.
        """
        from nomadiff.data.metadata import subjects_of
        from nomadiff.metrics.detectors.loading import load_detector
        from nomadiff.metrics.reference import ReferenceSet

        if self.reference is None:
            asked = {"--train": train, "--group-by": self.group_by, "--detector-weights": self.detector_weights}
            if given := next((option for option, value in asked.items() if value is not None), None):
                raise UsageError(f"{given} is about scores, and without --reference nothing is scored: give both")
            return None
        size = model.image_shape[1]
        reference = self.read(self.reference, "reference", resolution=size)
        trained_on = None if train is None else self.read(train, "train", resolution=size)
        return ReferenceSet(
            reference.pixels,
            train=None if trained_on is None else trained_on.pixels,
            subjects=subjects_of(reference, self.group_by),
            train_subjects=None if trained_on is None else subjects_of(trained_on, self.group_by),
            detector=load_detector(self.detector, weights=self.detector_weights, device=model.device),
            classifier=classifier,
            device=model.device,
            allow_train_as_reference=self.allow_train_as_reference,
        )


def refuse_shared(reference: ImageSource, source: ImageSource, where: str, *, most: str, some: str) -> None:
    """Refuse a reference of which most images are a source's own, and warn of some; they are told by their bytes.

    Args:
        reference: held-out images.
        source: what they must not hold.
        where: what the source is, for the message.
        most, some: why that spoils the answer, for either.

    Raises:
        UsageError: more than half of the reference is the source's.

    Warns:
        NomadiffWarning: fewer are.
    """
    from nomadiff.metrics.replication import shared

    if both := shared(reference.pixels, source.pixels):
        told = f"{both:,} of {len(reference):,} reference images are {where}"
        if 2 * both > len(reference):
            raise UsageError(f"{told}: {most}")
        warnings.warn(f"{told}: {some}", NomadiffWarning, stacklevel=2)
