"""Held-out real images that models are scored by, before they are read."""

from __future__ import annotations

from dataclasses import dataclass

from nomadiff.data.image_source import ImageSource
from nomadiff.data.metadata import subjects_of
from nomadiff.data.reading import Reading
from nomadiff.metrics.detectors import DEFAULT_DETECTOR, Classifier, Detector
from nomadiff.metrics.evaluate import ReferenceSet
from nomadiff.models.model import Model

__all__ = ["HeldOut"]


@dataclass(frozen=True, kw_only=True)
class HeldOut(Reading):
    """What ``improve`` and ``shift`` score by.

    Attributes:
        reference: Held-out real images to score by; without them improve needs --weight, and shift measures shares.
        detector: Feature space of the metrics: wavelets, pixels, digits, inception, ... or a TorchScript file.
        group_by: Column of the metadata that says whose an image is, such as patient: nobody is in both halves.
        allow_train_as_reference: Accept a reference that the model was trained on.
    """

    reference: str | ImageSource | None = None
    detector: str | Detector = DEFAULT_DETECTOR
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
    group_by: str | None = None
    allow_train_as_reference: bool = False

    def open(
        self, model: Model, *, train: str | ImageSource | None = None, classifier: Classifier | None = None
    ) -> ReferenceSet | None:
        """Read the images as large as the model draws them; None without a reference.

        Args:
            model: the model to score.
            train: the real images it was trained on, for replication.
            classifier: assigns the images to classes.

        Raises:
            UsageError, DataError: the images cannot be used as asked.
        """
        if self.reference is None:
            return None
        size = model.image_shape[1]
        reference = self.read(self.reference, "reference", resolution=size)
        trained_on = None if train is None else self.read(train, "train", resolution=size)
        return ReferenceSet(
            reference.pixels,
            train=None if trained_on is None else trained_on.pixels,
            subjects=subjects_of(reference, self.group_by),
            train_subjects=None if trained_on is None else subjects_of(trained_on, self.group_by),
            detector=self.detector,
            classifier=classifier,
            device=model.device,
            allow_train_as_reference=self.allow_train_as_reference,
        )
