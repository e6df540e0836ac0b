"""What a reference makes of images: every metric, with what its interval is made of, and the floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource, pixels_of
from nomadiff.errors import UsageError
from nomadiff.metrics.composition import composition, total_variation
from nomadiff.metrics.detectors.features import extract_features, images_sha256
from nomadiff.metrics.detectors.protocol import Classifier, Detector, check_images
from nomadiff.metrics.distance_names import FDR, distance_name
from nomadiff.metrics.feature_reference import FeatureReference
from nomadiff.metrics.intervals import GROUPS, interval_fields, means_left_out, random_groups
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.memorisation import NearestTraining, nearest_training
from nomadiff.metrics.mixture import is_separable, shares_of_sources
from nomadiff.metrics.pairs import pair_similarity
from nomadiff.metrics.splits import draws, mean_scores
from nomadiff.processes import Processes

__all__ = ["EXTRAS", "Scores", "ScoringReference", "check_extra"]

EXTRAS = ("kid", "cmmd", "ssim")
_SHOWN = 10  # samples whose nearest training images are named

Read = tuple[Tensor, Tensor | None]
"""What a reference reads of images: features, and classes where it has a classifier."""


def check_extra(extra: Sequence[str], detector: Detector) -> None:
    """Raise UsageError for a metric that is not one of :data:`EXTRAS`, or that this detector does not have."""
    if unknown := sorted(set(extra) - set(EXTRAS)):
        raise UsageError(f"no extra metric {unknown[0]!r}: choose of {', '.join(EXTRAS)}")
    if "cmmd" in extra and detector.name != "clip":
        raise UsageError(f"cmmd is a distance of CLIP features, not of {detector.name}: use --detector clip")


@dataclass(frozen=True)
class Scores:
    """What one set of samples scores.

    Attributes:
        values: every metric by name.
        count: number of samples.
        left_out: every metric without each group of the samples, float64 ``(GROUPS,)``; empty unless asked for.
        composition: share of each class; None without a classifier.
        nearest: the training image nearest to each sample; None without training images.
    """

    values: dict[str, float]
    count: int
    left_out: dict[str, np.ndarray] = field(default_factory=dict)
    composition: list[float] | None = None
    nearest: NearestTraining | None = None

    def fields(self, level: float | None) -> dict[str, float]:
        """The values, and with a level also ``<metric>_low`` and ``<metric>_high``."""
        return self.values | interval_fields(self.values, self.left_out, level, self.count)


class ScoringReference(FeatureReference):
    """A reference that scores images. What it holds is said at :class:`~nomadiff.metrics.reference.ReferenceSet`."""

    images: Tensor | None
    classes: Tensor | None
    composition: list[float] | None
    train: Tensor | None
    train_distinct: Tensor | None  # index of the first of equal ones
    train_as_copies: Tensor | None  # what copies are looked for in
    classifier: Classifier | None
    copies: Detector | None
    threshold: float | None
    quantile: float
    batch_size: int
    cache: str | Path | None
    processes: Processes | None
    meta: dict[str, Any]
    _has_style: dict[str, bool]  # of the sources asked for before, by their images' hash

    def subset(self, index: Tensor) -> Self:
        raise NotImplementedError

    def evaluate(
        self,
        samples: Tensor | Iterable[Tensor] | ImageSource,
        *,
        interval: float | None = None,
        extra: Sequence[str] = (),
        lpips: LPIPS | None = None,
        read: Read | None = None,
    ) -> dict[str, Any]:
        """Score one set of samples, uint8 ``(N, C, H, W)`` or batches of them; see :func:`evaluate`.

        ``read`` is what :meth:`read` gave for them, where that is known.
        """
        if isinstance(samples, ImageSource):
            samples = pixels_of(samples, "samples", True)
        elif not isinstance(samples, Tensor):
            samples = torch.cat(list(samples))
        scores = self.score(samples, groups=interval is not None, extra=extra, lpips=lpips, read=read)
        meta = {"count": len(samples), **self.meta}
        if scores.nearest is not None:
            meta["nearest"] = [
                {name: row[name] for name in ("sample", "train", "distance", "ratio")}
                for row in scores.nearest.rows(_SHOWN)
            ]
        return {**scores.fields(interval), "composition": scores.composition, "meta": meta}

    def score(
        self,
        samples: Tensor,
        *,
        groups: bool = False,
        extra: Sequence[str] = (),
        lpips: LPIPS | None = None,
        read: Read | None = None,
    ) -> Scores:
        """As :meth:`evaluate`, with what intervals are made of instead of intervals.

        Args:
            samples: uint8 ``(N, C, H, W)``.
            groups: whether every metric is computed without each group of the samples, too.
            extra, lpips, read: as for :meth:`evaluate`.

        Raises:
            UsageError: as :meth:`evaluate`.
        """
        check_extra(extra, self.detector)
        check_images(samples, "samples")
        if self.images is not None and samples.shape[1:] != self.images.shape[1:]:
            (c, h, w), (channels, height, width) = samples.shape[1:], self.images.shape[1:]
            raise UsageError(f"samples: {c}x{h}x{w} images against a reference of {channels}x{height}x{width}")
        member = random_groups(len(samples)) if groups else None
        features, classes = self.read(samples) if read is None else read
        row, left_out, nearest = self._scores(samples, features, classes, member, extra, lpips)
        ratio = self.fdr(features)
        if ratio is not None:  # beside the distance that it is of
            distance = distance_name(self.detector)
            row = {distance: row.pop(distance), FDR: ratio, **row}
        return Scores(row, len(samples), left_out, self._composition(classes), nearest)

    def read(self, images: Tensor) -> Read:
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
                where halves are compared. With subjects, nobody is on both sides.
            count: number of the samples that the floor is for; the split keeps their ratio to the reference, see
                :func:`~nomadiff.metrics.splits.fresh_count`. Halves by default.
            extra, lpips: as for :meth:`evaluate`.

        Returns:
            The metrics of :meth:`evaluate` without intervals; ``replication`` is its quantile and ``fdr`` is 1 by
            construction.

        Raises:
            UsageError: too few images, or a reference without features and no images given.
        """
        if fresh is not None:
            return self.score(fresh, extra=extra, lpips=lpips).values | {"replication": self.quantile}
        if self.features is None:
            raise UsageError("a floor needs real images, and this reference holds statistics only")
        check_extra(extra, self.detector)
        rows = []
        for some, others in draws(len(self.features), count, self.subjects):
            rest = self.subset(others)
            rest.threshold = None
            classes = None if self.classes is None else self.classes[some]
            images = None
            if "ssim" in extra or lpips is not None:
                images = None if self.images is None else self.images[some]
            else:  # nothing then depends on the images, or on the training images
                rest.train = None
            rows.append(rest._scores(images, self.features[some], classes, None, extra, lpips)[0])
        return mean_scores(rows) | {"replication": self.quantile, FDR: 1.0}

    def value(self, metric: str, features: Tensor, classes: Tensor | None) -> float | None:
        """One metric of what :meth:`read` gave for some samples; None where it is one of the images themselves."""
        if metric == distance_name(self.detector):
            return self.distance(features)
        if metric == FDR:
            return self.fdr(features)
        return self._scores(None, features, classes, None, (), None)[0].get(metric)

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

    def _scores(
        self,
        samples: Tensor | None,
        features: Tensor,
        classes: Tensor | None,
        member: Tensor | None,
        extra: Sequence[str],
        lpips: LPIPS | None,
    ) -> tuple[dict[str, float], dict[str, np.ndarray], NearestTraining | None]:
        """Every metric; with groups also its values without each; and the training image nearest to each sample.

        ``samples`` are the images themselves; metrics of pixels are left out without them.
        """
        row, left_out = self.of_features(features, member, extra)
        alike = "ssim" in extra or lpips is not None
        means: dict[str, Tensor] = {}
        nearest = None
        if samples is not None and self.train is not None:
            assert self.train_as_copies is not None
            nearest = nearest_training(self._as_copies(samples), self.train_as_copies, self.train_distinct)
            if self.threshold is not None:
                means["replication"] = nearest.distance <= self.threshold
        if samples is not None and alike:
            index = None if nearest is None else nearest.index
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

    def _as_copies(self, images: Tensor) -> Tensor:
        """What copies are looked for among: the images themselves, or their features by the detector of copies."""
        return images if self.copies is None else self._features(self.copies, images)

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
