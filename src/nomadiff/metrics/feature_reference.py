"""What a reference is by its features alone: distance, precision, recall, density and coverage of other features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nomadiff.metrics.cmmd import cmmd, cmmd_left_out
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.distance_names import distance_name, kernel_name
from nomadiff.metrics.fdr import distances_of_draws, fdr
from nomadiff.metrics.frechet import Statistics, frechet_distance, frechet_left_out
from nomadiff.metrics.intervals import GROUPS, groups_of, interval_fields, random_groups
from nomadiff.metrics.kid import kid, kid_left_out
from nomadiff.metrics.manifold import prdc, prdc_left_out, radii
from nomadiff.metrics.splits import draws, fresh_count

__all__ = ["FeatureReference"]


class FeatureReference:
    """Features of real images, with what is computed of them once.

    Attributes:
        detector: what the features are of.
        features: float ``(N, D)``, or None where only their statistics are known.
        statistics: their mean and covariance.
        radii: of their neighbourhoods, ``(N,)``, once they were asked for; None without features.
        subjects: whose each feature is, int64 ``(N,)``: no split has somebody on both sides. None if nobody's.
        k, convention: see :mod:`~nomadiff.metrics.manifold`.
    """

    detector: Detector
    features: Tensor | None
    statistics: Statistics
    radii: Tensor | None
    subjects: Tensor | None
    k: int
    convention: str
    _of_fresh: dict[int, float]  # distance of fresh real data, by the number of samples it is for

    def distance(self, features: Tensor) -> float:
        """Frechet distance of features ``(N, D)`` to the reference."""
        return frechet_distance(self.statistics, Statistics.from_features(features))

    def has_floor(self, count: int) -> bool:
        """Whether it can be split for the floor of so many samples: more than k images a side, nobody on both."""
        if self.features is None or fresh_count(len(self.features), count) <= self.k:
            return False
        if self.subjects is None:
            return True
        if len(self.subjects.unique()) < 2:
            return False
        return all(min(map(len, split)) > self.k for split in draws(len(self.features), count, self.subjects))

    def fdr(self, features: Tensor) -> float | None:
        """FDr of features ``(N, D)``, see :mod:`~nomadiff.metrics.fdr`; None if the reference is too small to tell."""
        if self.features is None or fresh_count(len(self.features), count := len(features)) < 2:
            return None
        if self.subjects is not None and len(self.subjects.unique()) < 2:
            return None
        if count not in self._of_fresh:
            self._of_fresh[count] = distances_of_draws(self.features, None, count, self.subjects)
        return fdr(self.features, features, subjects=self.subjects, fresh=self._of_fresh[count])

    def score_features(self, features: Tensor, interval: float | None = None) -> dict[str, float]:
        """The metrics of features alone: the Frechet distance, precision, recall, density and coverage.

        Args:
            features: float ``(N, D)``, more than k.
            interval: level of the intervals, ``<metric>_low`` and ``<metric>_high``; there are none for fewer than 40.
        """
        member = None if interval is None or len(features) < 2 * GROUPS else random_groups(len(features))
        row, left_out = self.of_features(features, member)
        return row | interval_fields(row, left_out, interval, len(features))

    def of_features(
        self, features: Tensor, member: Tensor | None, extra: Sequence[str] = ()
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The metrics of features alone, with ``extra`` kid and cmmd; with groups also their values without each."""
        name = distance_name(self.detector)
        row = {name: self.distance(features)}
        left_out: dict[str, np.ndarray] = {}
        if member is not None:
            left_out[name] = frechet_left_out(self.statistics, features, member)
        if self.features is None:
            return row, left_out
        if self.radii is None:
            self.radii = radii(self.features, self.k, "reference")
        if member is None:
            row |= prdc(self.features, features, self.k, self.convention, real_radii=self.radii)
        else:
            values, without = prdc_left_out(
                self.features, features, member, self.k, self.convention, real_radii=self.radii
            )
            row, left_out = row | values, left_out | without
        for wanted, of_all, without_each in (("kid", kid, kid_left_out), ("cmmd", cmmd, cmmd_left_out)):
            if wanted not in extra:
                continue
            field = kernel_name(name) if wanted == "kid" else wanted
            if member is None:
                row[field] = of_all(self.features, features)
            else:
                row[field], left_out[field] = without_each(self.features, features, member)
        return row, left_out

    def reference_left_out(self, features: Tensor, extra: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The distances of features without each group of the *reference* in turn: how much it was its images' chance.

        Only of distances, which are symmetric; nothing without features, or where there are fewer than 40 real images
        or, with subjects, 20 of these.
        """
        member = None if self.features is None else groups_of(len(self.features), self.subjects)
        if self.features is None or member is None:
            return {}
        name = distance_name(self.detector)
        found = {name: frechet_left_out(Statistics.from_features(features), self.features, member)}
        if "kid" in extra:
            found[kernel_name(name)] = kid_left_out(features, self.features, member)[1]
        if "cmmd" in extra:
            found["cmmd"] = cmmd_left_out(features, self.features, member)[1]
        return found
