"""Held-out real images that models are scored by, before they are read."""

from __future__ import annotations

from dataclasses import dataclass

from nomadiff.data.image_source import ImageSource
from nomadiff.metrics.detectors import Classifier, Detector
from nomadiff.metrics.evaluate import ReferenceSet
from nomadiff.models.model import Model

__all__ = ["HeldOut"]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What ``improve`` and ``shift`` score by.

    Attributes:
        reference: Held-out real images to score by; without them improve needs --weight, and shift measures shares.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference.
        skip_unreadable: Leave images out that cannot be read, and name them, instead of refusing.
        allow_train_as_reference: Accept a reference that the model was trained on.
    """

    reference: str | ImageSource | None = None
    detector: str | Detector = "pixels"
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
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
        return ReferenceSet(
            self._read(self.reference, "reference", model).pixels,
            train=None if train is None else self._read(train, "train", model).pixels,
            detector=self.detector,
            classifier=classifier,
            device=model.device,
            allow_train_as_reference=self.allow_train_as_reference,
        )

    def _read(self, images: str | ImageSource, name: str, model: Model) -> ImageSource:
        return ImageSource.open(
            images,
            name=name,
            synthetic=False,
            resolution=model.image_shape[1],
            allow_synthetic_as_real=self.allow_synthetic_as_real,
            skip_unreadable=self.skip_unreadable,
        )
