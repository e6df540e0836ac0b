"""Score generated images against real ones: every metric of the journey in one call.

``reference`` should be real images that the generator was not trained on: against its training set, a generator that
copies looks perfect. ``train`` is what it was trained on, and is used for replication only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.composition import composition, total_variation
from nomadiff.metrics.detectors import Classifier, Detector, classify, extract_features, load_classifier, load_detector
from nomadiff.metrics.detectors.inception import WEIGHTS
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.frechet import Statistics, frechet_distance
from nomadiff.metrics.intervals import jackknife
from nomadiff.metrics.manifold import prdc, radii
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.replication import replication_threshold

__all__ = ["ReferenceSet", "distance_name", "evaluate", "images_sha256"]


def distance_name(detector: Detector) -> str:
    """Field name of the Frechet distance on this detector: ``fd_<detector>``, and ``fid`` for the original alone."""
    if detector.name == "inception" and detector.sha256 == WEIGHTS.sha256:
        return "fid"
    return "fd_" + detector.name.replace("-", "_")


def images_sha256(images: Tensor) -> str:
    """SHA-256 of the pixels and shape of uint8 images ``(N, C, H, W)``: the same images give it from any file."""
    content = hashlib.sha256(repr(tuple(images.shape)).encode())
    content.update(images.contiguous().cpu().numpy().data)
    return content.hexdigest()


class ReferenceSet:
    """Real images to score samples against; what depends on them alone is computed once.

    Args:
        images: held-out real images, uint8 ``(N, C, H, W)``.
        train: the real images the generator was trained on, uint8; without them replication is not measured.
        detector: name of a detector, or one; see :func:`~nomadiff.metrics.detectors.load_detector`.
        classifier: name of a classifying detector, or one, for the class composition; by default the detector itself
            where it classifies.
        k: neighbour of precision, recall, density and coverage.
        convention: of the same, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        device: where detectors named by a word compute.
        batch_size: images to a detector's batch.

    Raises:
        UsageError: the images are not what the detector reads, or there are too few of them.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        train: Tensor | None = None,
        detector: str | Detector = "digits",
        classifier: str | Detector | None = None,
        k: int = 5,
        convention: str = "prdc",
        quantile: float = 0.05,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
    ) -> None:
        check_images(images, "reference")
        self.detector = load_detector(detector, device=device)
        self.classifier: Classifier | None = None
        if classifier is not None:
            self.classifier = load_classifier(classifier, device=device)
        elif isinstance(self.detector, Classifier):
            self.classifier = self.detector
        self.k, self.convention, self.quantile, self.batch_size = k, convention, quantile, batch_size
        self.images, self.train = images, train
        self.features = extract_features(self.detector, images, batch_size=batch_size)
        self.statistics = Statistics.from_features(self.features)
        self.radii = radii(self.features, k, "reference")
        self.composition = self._composition(self._classes(images, self.features))
        self.threshold: float | None = None
        if train is not None:
            check_images(train, "train", channels=images.shape[1])
            self.threshold = replication_threshold(train, images, quantile=quantile)
        self.meta: dict[str, Any] = {
            "reference_count": len(images),
            "reference_sha256": images_sha256(images),
            "detector": self.detector.name,
            "detector_version": self.detector.version,
            "detector_sha256": self.detector.sha256,
            "k": k,
            "convention": convention,
        }
        if self.classifier is not None and self.classifier is not self.detector:
            self.meta |= {"classifier": self.classifier.name, "classifier_sha256": self.classifier.sha256}
        if train is not None:
            self.meta |= {"train_count": len(train), "train_sha256": images_sha256(train), "quantile": quantile}

    def evaluate(self, samples: Tensor | Iterable[Tensor], *, interval: float | None = None) -> dict[str, Any]:
        """Score one set of samples; see :func:`evaluate`."""
        if not isinstance(samples, Tensor):
            samples = torch.cat(list(samples))
        check_images(samples, "samples", channels=self.images.shape[1])
        if samples.shape[2:] != self.images.shape[2:]:
            size, wanted = tuple(samples.shape[2:]), tuple(self.images.shape[2:])
            raise UsageError(f"samples: {size[0]}x{size[1]} images against a reference of {wanted[0]}x{wanted[1]}")
        features = extract_features(self.detector, samples, batch_size=self.batch_size)
        classes = self._classes(samples, features)
        distance = None if self.train is None else nearest_neighbours(samples, self.train)[1][:, 0]

        def metrics(chosen: Tensor) -> dict[str, float]:
            row = {distance_name(self.detector): self.distance(features[chosen])}
            row |= prdc(self.features, features[chosen], self.k, self.convention, real_radii=self.radii)
            if distance is not None and self.threshold is not None:
                row["replication"] = float((distance[chosen] <= self.threshold).double().mean())
            if classes is not None and self.composition is not None:
                shares = self._composition(classes[chosen])
                row["composition_tv"] = total_variation(shares or [], self.composition)
            return row

        result: dict[str, Any] = dict(metrics(torch.arange(len(samples))))
        if interval is not None:
            for name, (low, high) in jackknife(metrics, len(samples), level=interval).items():
                result[f"{name}_low"], result[f"{name}_high"] = max(low, 0.0), high
        result["composition"] = self._composition(classes)
        result["meta"] = {"count": len(samples), **self.meta}
        return result

    def distance(self, features: Tensor) -> float:
        """Frechet distance of features ``(N, D)`` to the reference."""
        return frechet_distance(self.statistics, Statistics.from_features(features))

    def _classes(self, images: Tensor, features: Tensor) -> Tensor | None:
        if self.classifier is None:
            return None
        if self.classifier is not self.detector:
            return classify(self.classifier, images, batch_size=self.batch_size)
        return self.classifier.classes_of_features(features).cpu()

    def _composition(self, classes: Tensor | None) -> list[float] | None:
        if classes is None or self.classifier is None:
            return None
        return composition(classes, len(self.classifier.class_names))


def evaluate(
    samples: Tensor,
    reference: Tensor,
    *,
    train: Tensor | None = None,
    detector: str | Detector = "digits",
    classifier: str | Detector | None = None,
    k: int = 5,
    convention: str = "prdc",
    quantile: float = 0.05,
    interval: float | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Score ``samples`` against ``reference``. For many sample sets use one :class:`ReferenceSet`.

    Args:
        samples: generated images, uint8 ``(N, C, H, W)``.
        reference: held-out real images, uint8, of the same size.
        train: the real images the generator was trained on; without them there is no ``replication``.
        detector: name of a detector, or one.
        classifier: for the class composition; by default the detector itself where it classifies.
        k: neighbour of precision, recall, density and coverage.
        convention: ``"prdc"`` or ``"kynkaanniemi"``, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        interval: level of confidence intervals, 0.95 for instance: every metric then has ``<metric>_low`` and
            ``<metric>_high``, which costs about twenty times the metrics (not the features).
        device: where a detector named by a word computes.

    Returns:
        ``fd_<detector>``, ``precision``, ``recall``, ``density``, ``coverage``; with ``train`` also ``replication``;
        with a classifier also ``composition_tv`` (total variation distance to the reference's composition);
        ``composition`` (share of each class, or None); and ``meta``: ``count``, ``reference_count``, ``detector``,
        ``detector_sha256``, ``reference_sha256`` and the settings, without which no figure can be compared.

    Raises:
        UsageError: wrong kind or size of images, or too few of them.
        DataError: a weight file is absent or damaged.
    """
    against = ReferenceSet(
        reference,
        train=train,
        detector=detector,
        classifier=classifier,
        k=k,
        convention=convention,
        quantile=quantile,
        device=device,
    )
    return against.evaluate(samples, interval=interval)
