"""A reference: held-out real images, with everything computed once for scoring many sample sets."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource, pixels_of
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.detectors.features import images_sha256
from nomadiff.metrics.detectors.loading import load_classifier, load_detector
from nomadiff.metrics.detectors.protocol import Classifier, Detector, check_images
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.manifold import check_count, radii
from nomadiff.metrics.reference_file import read_stored
from nomadiff.metrics.replication import calibrate, distinct
from nomadiff.metrics.scoring import EXTRAS, ScoringReference
from nomadiff.metrics.statistics_files import read_statistics, write_statistics
from nomadiff.processes import Processes

__all__ = ["EXTRAS", "ReferenceSet", "check_subjects"]


class ReferenceSet(ScoringReference):
    """Real images to score samples against; what depends on them alone is computed once.

    Args:
        images: held-out real images, uint8 ``(N, C, H, W)``, or a source of them.
        train: the real images the generator was trained on, uint8; without them replication is not measured.
        detector: name of a detector, or one; see :func:`~nomadiff.metrics.detectors.loading.load_detector`.
        classifier: name of a classifying detector, or one, for the class composition; by default the detector itself
            where it classifies.
        k: neighbour of precision, recall, density and coverage.
        convention: of the same, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        device: where detectors given by name compute.
        batch_size: images to a detector's batch.
        cache: folder where features are kept between runs, see
            :func:`~nomadiff.metrics.detectors.extract_features`; nothing is kept by default.
        processes: share the detector's work out over these processes.
        allow_train_as_reference: accept a reference of which more than half is the training set; without enough other
            images replication is then not measured.
        subjects: whose each image is (a patient's, a person's), ``N`` names: the floor has nobody on both sides.
        train_subjects: likewise of ``train``: replication is calibrated without subjects that are in both.
        copies: detector on whose features copies are looked for, such as ``sscd``; by default the pixels themselves.

    Attributes:
        overlap: a sentence on how much of it is training images; empty if none is.

    Warns:
        NomadiffWarning: some of the reference are training images, or near-copies; replication is calibrated without
            them, and ``meta`` says how many: ``reference_in_train``, of them ``reference_near_train`` only nearly.

    Raises:
        UsageError: the images are not what the detector reads, there are too few of them, or more than half of them are
            training images.
    """

    def __init__(
        self,
        images: Tensor | ImageSource,
        *,
        train: Tensor | ImageSource | None = None,
        detector: str | Detector = "digits",
        classifier: str | Detector | None = None,
        k: int = 5,
        convention: str = "prdc",
        quantile: float = 0.05,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        cache: str | Path | None = None,
        processes: Processes | None = None,
        allow_train_as_reference: bool = False,
        subjects: Sequence[str] | None = None,
        train_subjects: Sequence[str] | None = None,
        copies: str | Detector | None = None,
    ) -> None:
        images = pixels_of(images, "reference", False)
        check_images(images, "reference")
        self._settings(detector, classifier, k, convention, quantile, device, batch_size, cache, processes)
        self.allow_train_as_reference = allow_train_as_reference
        if copies is not None:
            self.copies = load_detector(copies, device=device)
            self.meta |= {"copies": self.copies.name, "copies_sha256": self.copies.sha256}
        self.images = images
        if subjects is not None:
            self._set_subjects(subjects)
        self.features = self._features(self.detector, images)
        self.statistics = Statistics.from_features(self.features)
        self.radii = radii(self.features, k, "reference")
        self.classes = self._classes(images, self.features)
        self.composition = self._composition(self.classes)
        self.meta |= {"reference_count": len(images), "reference_sha256": images_sha256(images)}
        if train is not None:
            self._set_train(train, train_subjects)

    def _settings(
        self,
        detector: str | Detector,
        classifier: str | Detector | None,
        k: int,
        convention: str,
        quantile: float,
        device: str | torch.device,
        batch_size: int,
        cache: str | Path | None,
        processes: Processes | None,
    ) -> None:
        self.detector = load_detector(detector, device=device)
        self.classifier = None
        if classifier is not None:
            self.classifier = load_classifier(classifier, device=device)
        elif isinstance(self.detector, Classifier):
            self.classifier = self.detector
        self.k, self.convention, self.quantile = k, convention, quantile
        self.batch_size, self.cache, self.processes = batch_size, cache, processes
        self.allow_train_as_reference = False
        self.train = self.train_distinct = self.train_as_copies = self.threshold = None
        self.copies = self.subjects = None
        self._subject_numbers: dict[str, int] = {}
        self.overlap = ""
        self._has_style, self._of_fresh = {}, {}
        self.meta = {
            "detector": self.detector.name,
            "detector_version": self.detector.version,
            "detector_sha256": self.detector.sha256,
            "k": k,
            "convention": convention,
        }
        if self.classifier is not None and self.classifier is not self.detector:
            self.meta |= {"classifier": self.classifier.name, "classifier_sha256": self.classifier.sha256}

    def with_train(self, train: Tensor | ImageSource, subjects: Sequence[str] | None = None) -> ReferenceSet:
        """The same reference for a generator trained on other images: only the replication threshold is computed.

        Args:
            train: the training images.
            subjects: whose each of them is.

        Raises:
            UsageError: the images have another size, this reference was loaded without images, or more than half of it
                is training images.
        """
        other = copy.copy(self)
        other.meta = dict(self.meta)
        other._set_train(train, subjects)
        return other

    def _set_train(self, train: Tensor | ImageSource, subjects: Sequence[str] | None) -> None:
        train = pixels_of(train, "train", False)
        if self.images is None:
            raise UsageError("replication needs the held-out images themselves, and this reference holds features only")
        check_images(train, "train", channels=self.images.shape[1])
        self.train, self.train_distinct = train, distinct(train)
        self.train_as_copies = self._as_copies(train)
        related = None
        if subjects is not None and self.subjects is not None:
            if len(subjects) != len(train):
                raise UsageError(f"train: {len(train)} images and {len(subjects)} subjects")
            both = [number for name, number in self._subject_numbers.items() if name in set(subjects)]
            related = torch.isin(self.subjects, torch.tensor(both, dtype=torch.int64))
        found = calibrate(
            train,
            self.images,
            quantile=self.quantile,
            allow_train_as_reference=self.allow_train_as_reference,
            related=related,
            features=None if self.copies is None else (self.train_as_copies, self._as_copies(self.images)),
        )
        self.overlap = found.sentence()
        if self.overlap:
            warnings.warn(self.overlap, NomadiffWarning, stacklevel=3)
        self.threshold = found.threshold
        self.meta |= {"train_count": len(train), "train_sha256": images_sha256(train), "quantile": self.quantile}
        self.meta |= {"reference_in_train": found.exact + found.near, "reference_near_train": found.near}
        if related is not None:
            self.meta["reference_of_train_subjects"] = found.related

    def _set_subjects(self, subjects: Sequence[str]) -> None:
        assert self.images is not None
        if len(subjects) != len(self.images):
            raise UsageError(f"reference: {len(self.images)} images and {len(subjects)} subjects")
        check_subjects(subjects)
        self._subject_numbers = {name: number for number, name in enumerate(dict.fromkeys(subjects))}
        self.subjects = torch.tensor([self._subject_numbers[name] for name in subjects])
        self.meta["subjects"] = len(self._subject_numbers)

    def subset(self, index: Tensor, *, images: bool = False) -> ReferenceSet:
        """The same reference with some of its images only; no image passes through a detector again.

        Args:
            index: which images, int64 indices or one bool an image.
            images: whether the images themselves are kept, too, a copy of them: only training images are looked for
                among them.

        Raises:
            UsageError: not more than k images, or a reference without features.
        """
        if self.features is None:
            raise UsageError("this reference holds statistics only: it cannot be taken apart")
        other = self.with_features(self.features[index], None if self.classes is None else self.classes[index])
        other.images = self.images[index] if images and self.images is not None else None
        other.subjects = None if self.subjects is None else self.subjects[index]
        return other

    def with_features(self, features: Tensor, classes: Tensor | None) -> ReferenceSet:
        """A reference of other images by what :meth:`read` gave for them; the images themselves are not kept.

        Raises:
            UsageError: not more than k images.
        """
        other = copy.copy(self)
        other.meta = dict(self.meta)
        other.images, other.classes, other.features, other.subjects = None, classes, features, None
        other._has_style, other._of_fresh = {}, {}
        other.statistics = Statistics.from_features(other.features)
        check_count(len(features), self.k, "reference")
        other.radii = None
        other.composition = self._composition(other.classes)
        other.meta["reference_count"] = len(other.features)
        return other

    def save(self, path: str | Path) -> None:
        """Write features and statistics to one ``npz``: all metrics but replication can be computed from it.

        It holds ``mu`` and ``sigma`` as EDM's reference files do.
        """
        notes: dict[str, Any] = {"meta": json.dumps(self.meta)}
        if self.features is not None:
            notes["features"] = self.features.numpy()
        if self.classes is not None:
            notes["classes"] = self.classes.numpy()
        write_statistics(path, self.statistics, **notes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        detector: str | Detector,
        classifier: str | Detector | None = None,
        k: int = 5,
        convention: str = "prdc",
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        cache: str | Path | None = None,
        processes: Processes | None = None,
    ) -> ReferenceSet:
        """Read a reference written by :meth:`save`, or one of EDM or EDM2, which gives the Frechet distance alone.

        Args:
            path: ``npz``, or EDM2's ``pkl``.
            detector: the detector the features come from; a file of nomadiff is checked for it.
            classifier, k, convention, device, batch_size, cache, processes: as for the class.

        Raises:
            DataError: the file is absent, damaged, or holds something else.
            UsageError: it was made with another detector.
        """
        self = cls.__new__(cls)
        self._settings(detector, classifier, k, convention, 0.05, device, batch_size, cache, processes)
        metric = distance_name(self.detector)
        self.statistics = read_statistics(path, metric)
        self.images = self.features = self.radii = self.classes = self.composition = None
        if self.detector.dimension not in (None, len(self.statistics.mean)):
            raise UsageError(
                f"{path}: features of dimension {len(self.statistics.mean)}, "
                f"detector {self.detector.name} gives {self.detector.dimension}"
            )
        self.meta |= {"reference_count": self.statistics.count, "reference_sha256": None}
        stored = read_stored(Path(path), self.detector, self.statistics)
        if stored.features is not None:
            self.features = stored.features
            self.statistics = Statistics.from_features(stored.features)
            self.radii = radii(stored.features, k, "reference")
        if stored.classes is not None and stored.classifier_sha256 == self.meta.get("classifier_sha256"):
            self.classes = stored.classes
            self.composition = self._composition(stored.classes)
        self.meta |= stored.counted
        return self


def check_subjects(subjects: Sequence[str]) -> None:
    """Refuse a reference that shows one subject only.

    Raises:
        UsageError: it does.
    """
    if len(set(subjects)) < 2:
        raise UsageError("reference: all images are of one subject: a floor needs others beside it")
