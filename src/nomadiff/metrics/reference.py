"""A reference: held-out real images, with everything computed once for scoring many sample sets."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource, pixels_of
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.composition import composition, total_variation
from nomadiff.metrics.detectors import Classifier, Detector, extract_features, load_classifier, load_detector
from nomadiff.metrics.detectors.features import images_sha256
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.feature_reference import FeatureReference
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.intervals import GROUPS, interval_fields, means_left_out, random_groups
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.manifold import check_count, radii
from nomadiff.metrics.mixture import is_separable, shares_of_sources
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.pairs import pair_similarity
from nomadiff.metrics.reference_file import read_stored
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.splits import draws, mean_scores
from nomadiff.metrics.statistics_files import read_statistics, write_statistics
from nomadiff.processes import Processes

__all__ = ["EXTRAS", "ReferenceSet"]

EXTRAS = ("kid", "ssim")
_SHOWN = 10  # samples whose nearest training images are named


class ReferenceSet(FeatureReference):
    """Real images to score samples against; what depends on them alone is computed once.

    Args:
        images: held-out real images, uint8 ``(N, C, H, W)``, or a source of them.
        train: the real images the generator was trained on, uint8; without them replication is not measured.
        detector: name of a detector, or one; see :func:`~nomadiff.metrics.detectors.load_detector`.
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
    ) -> None:
        images = pixels_of(images, "reference", False)
        check_images(images, "reference")
        self._settings(detector, classifier, k, convention, quantile, device, batch_size, cache, processes)
        self.allow_train_as_reference = allow_train_as_reference
        self.images: Tensor | None = images
        self.features: Tensor | None = self._features(self.detector, images)
        self.statistics = Statistics.from_features(self.features)
        self.radii: Tensor | None = radii(self.features, k, "reference")
        self.classes: Tensor | None = self._classes(images, self.features)
        self.composition = self._composition(self.classes)
        self.meta |= {"reference_count": len(images), "reference_sha256": images_sha256(images)}
        if train is not None:
            self._set_train(train)

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
        self.classifier: Classifier | None = None
        if classifier is not None:
            self.classifier = load_classifier(classifier, device=device)
        elif isinstance(self.detector, Classifier):
            self.classifier = self.detector
        self.k, self.convention, self.quantile = k, convention, quantile
        self.batch_size, self.cache, self.processes = batch_size, cache, processes
        self.allow_train_as_reference = False
        self.train: Tensor | None = None
        self.threshold: float | None = None
        self.overlap = ""
        self._has_style: dict[str, bool] = {}  # of the sources asked for before, by their images' hash
        self.meta: dict[str, Any] = {
            "detector": self.detector.name,
            "detector_version": self.detector.version,
            "detector_sha256": self.detector.sha256,
            "k": k,
            "convention": convention,
        }
        if self.classifier is not None and self.classifier is not self.detector:
            self.meta |= {"classifier": self.classifier.name, "classifier_sha256": self.classifier.sha256}

    def with_train(self, train: Tensor | ImageSource) -> ReferenceSet:
        """The same reference for a generator trained on other images: only the replication threshold is computed.

        Raises:
            UsageError: the images have another size, this reference was loaded without images, or more than half of it
                is training images.
        """
        other = copy.copy(self)
        other.meta = dict(self.meta)
        other._set_train(train)
        return other

    def _set_train(self, train: Tensor | ImageSource) -> None:
        train = pixels_of(train, "train", False)
        if self.images is None:
            raise UsageError("replication needs the held-out images themselves, and this reference holds features only")
        check_images(train, "train", channels=self.images.shape[1])
        self.train = train
        found = calibrate(
            train, self.images, quantile=self.quantile, allow_train_as_reference=self.allow_train_as_reference
        )
        self.overlap = found.sentence()
        if self.overlap:
            warnings.warn(self.overlap, NomadiffWarning, stacklevel=3)
        self.threshold = found.threshold
        self.meta |= {"train_count": len(train), "train_sha256": images_sha256(train), "quantile": self.quantile}
        self.meta |= {"reference_in_train": found.exact + found.near, "reference_near_train": found.near}

    def evaluate(
        self,
        samples: Tensor | Iterable[Tensor] | ImageSource,
        *,
        interval: float | None = None,
        extra: Sequence[str] = (),
        lpips: LPIPS | None = None,
        read: tuple[Tensor, Tensor | None] | None = None,
    ) -> dict[str, Any]:
        """Score one set of samples, uint8 ``(N, C, H, W)`` or batches of them; see :func:`evaluate`.

        ``read`` is what :meth:`read` gave for them, where that is known.
        """
        if unknown := sorted(set(extra) - set(EXTRAS)):
            raise UsageError(f"no extra metric {unknown[0]!r}: choose of {', '.join(EXTRAS)}")
        if isinstance(samples, ImageSource):
            samples = pixels_of(samples, "samples", True)
        elif not isinstance(samples, Tensor):
            samples = torch.cat(list(samples))
        check_images(samples, "samples")
        if self.images is not None and samples.shape[1:] != self.images.shape[1:]:
            (c, h, w), (channels, height, width) = samples.shape[1:], self.images.shape[1:]
            raise UsageError(f"samples: {c}x{h}x{w} images against a reference of {channels}x{height}x{width}")
        member = None if interval is None else random_groups(len(samples))
        features, classes = self.read(samples) if read is None else read
        row, left_out, nearest = self._scores(samples, features, classes, member, extra, lpips)
        result: dict[str, Any] = row | interval_fields(row, left_out, interval)
        result["composition"] = self._composition(classes)
        result["meta"] = {"count": len(samples), **self.meta, **({"nearest": nearest} if nearest else {})}
        return result

    def read(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features of images by the detector, and their classes where there is a classifier, int64 ``(N,)``."""
        features = self._features(self.detector, images)
        return features, self._classes(images, features)

    def floor(
        self,
        fresh: Tensor | None = None,
        *,
        count: int | None = None,
        extra: Sequence[str] = (),
        lpips: LPIPS | None = None,
    ) -> dict[str, float]:
        """What fresh real data scores: the best any generator can reach with so many samples, but by chance.

        Args:
            fresh: real images that are neither in the reference nor trained on. Without them some of the reference,
                drawn at random, are judged by the rest (the mean of up to ten draws): no image passes through a
                detector again. Fewer images make the Frechet distance larger, so this floor of it is high, up to twice
                where halves are compared.
            count: number of the samples that the floor is for; the split keeps their ratio to the reference, see
                :func:`~nomadiff.metrics.splits.fresh_count`. Halves by default.
            extra, lpips: as for :meth:`evaluate`.

        Returns:
            The metrics of :meth:`evaluate` without intervals; ``replication`` is its quantile by construction.

        Raises:
            UsageError: too few images, or a reference without features and no images given.
        """
        if fresh is not None:
            result = self.evaluate(fresh, extra=extra, lpips=lpips)
            row = {name: value for name, value in result.items() if name not in ("composition", "meta")}
            return row | {"replication": self.quantile}
        if self.features is None:
            raise UsageError("a floor needs real images, and this reference holds statistics only")
        rows = []
        for some, others in draws(len(self.features), count):
            rest = self.subset(others)
            rest.threshold = None
            classes = None if self.classes is None else self.classes[some]
            images = None if self.images is None else self.images[some]
            rows.append(rest._scores(images, self.features[some], classes, None, extra, lpips)[0])
        return mean_scores(rows) | {"replication": self.quantile}

    def subset(self, index: Tensor) -> ReferenceSet:
        """The same reference with some of its images only; no image passes through a detector again.

        Args:
            index: which images, int64 indices or one bool an image.

        Raises:
            UsageError: not more than k images, or a reference without features.
        """
        if self.features is None:
            raise UsageError("this reference holds statistics only: it cannot be taken apart")
        other = self.with_features(self.features[index], None if self.classes is None else self.classes[index])
        other.images = None if self.images is None else self.images[index]
        return other

    def with_features(self, features: Tensor, classes: Tensor | None) -> ReferenceSet:
        """A reference of other images by what :meth:`read` gave for them; the images themselves are not kept.

        Raises:
            UsageError: not more than k images.
        """
        other = copy.copy(self)
        other.meta = dict(self.meta)
        other.images, other.classes, other.features = None, classes, features
        other._has_style = {}
        other.statistics = Statistics.from_features(other.features)
        check_count(len(features), self.k, "reference")
        other.radii = None
        other.composition = self._composition(other.classes)
        other.meta["reference_count"] = len(other.features)
        return other

    def style(self, samples: Tensor, synthetic: Tensor) -> float | None:
        """How much of a synthetic source's style shows in samples: the share that looks like it rather than real.

        The reference is the real set, see :func:`~nomadiff.metrics.mixture.shares_of_sources`.

        Args:
            samples: uint8 ``(N, C, H, W)``, at least 20.
            synthetic: images of the source, likewise.

        Returns:
            A share in [0, 1]; None where the source cannot be told from real images, so that it has no style to show.

        Raises:
            UsageError: too few images, or a reference without features.
        """
        if self.features is None:
            raise UsageError("style needs the features of the reference, and this one holds statistics only")
        source = self._features(self.detector, synthetic)
        name = images_sha256(synthetic)
        if name not in self._has_style:
            self._has_style[name] = is_separable(self.features, source)
        if not self._has_style[name]:
            return None
        features = self._features(self.detector, samples)
        return shares_of_sources(features, {"source": source}, self.features)["source"].share

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

    def value(self, metric: str, features: Tensor, classes: Tensor | None) -> float | None:
        """One metric of what :meth:`read` gave for some samples; None where it is one of the images themselves."""
        if metric == distance_name(self.detector):
            return self.distance(features)
        return self._scores(None, features, classes, None, (), None)[0].get(metric)

    def _scores(
        self,
        samples: Tensor | None,
        features: Tensor,
        classes: Tensor | None,
        member: Tensor | None,
        extra: Sequence[str],
        lpips: LPIPS | None,
    ) -> tuple[dict[str, float], dict[str, np.ndarray], list[dict[str, float]]]:
        """Every metric; with groups also its values without each; and the samples nearest to a training image.

        ``samples`` are the images themselves; metrics of pixels are left out without them.
        """
        row, left_out = self.of_features(features, member, "kid" in extra)
        alike = "ssim" in extra or lpips is not None
        means: dict[str, Tensor] = {}
        nearest: list[dict[str, float]] = []
        index = None
        if samples is not None and self.train is not None and (alike or self.threshold is not None):
            index, distance = (column[:, 0] for column in nearest_neighbours(samples, self.train))
            if self.threshold is not None:
                means["replication"] = distance <= self.threshold
                first = distance.argsort(stable=True)[:_SHOWN].tolist()
                nearest = [{"sample": i, "train": int(index[i]), "distance": float(distance[i])} for i in first]
        if samples is not None and alike:
            means |= pair_similarity(samples, self.train, lpips=lpips, nearest=index)
        for name, values in means.items():
            row[name] = float(values.double().mean())
            if member is not None:  # a pair is in the group of its first sample
                of_values = member[::2][: len(values)] if name.endswith("_pairs") else member
                left_out[name] = means_left_out(values, of_values)
        if classes is not None and self.composition is not None:
            row["composition_tv"] = self._variation(classes)
            if member is not None:
                left_out["composition_tv"] = np.array([self._variation(classes[member != g]) for g in range(GROUPS)])
        return row, left_out, nearest

    def _variation(self, classes: Tensor) -> float:
        return total_variation(self._composition(classes) or [], self.composition or [])

    def _features(self, detector: Detector, images: Tensor) -> Tensor:
        return extract_features(
            detector, images, batch_size=self.batch_size, cache=self.cache, processes=self.processes
        )

    def _classes(self, images: Tensor, features: Tensor) -> Tensor | None:
        if self.classifier is None:
            return None
        if self.classifier is not self.detector:
            features = self._features(self.classifier, images)
        return self.classifier.classes_of_features(features).cpu()

    def _composition(self, classes: Tensor | None) -> list[float] | None:
        if classes is None or self.classifier is None:
            return None
        return composition(classes, len(self.classifier.class_names))
