"""What a reference is by its features alone: distance, precision, recall, density and coverage of other features."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nomadiff.metrics.detectors import Detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.frechet import Statistics, frechet_distance, frechet_left_out
from nomadiff.metrics.intervals import GROUPS, interval_fields, random_groups
from nomadiff.metrics.kid import kid, kid_left_out
from nomadiff.metrics.manifold import prdc, prdc_left_out, radii

__all__ = ["FeatureReference"]


class FeatureReference:
    """Features of real images, with what is computed of them once.

    Attributes:
        detector: what the features are of.
        features: float ``(N, D)``, or None where only their statistics are known.
        statistics: their mean and covariance.
        radii: of their neighbourhoods, ``(N,)``, once they were asked for; None without features.
        k, convention: see :mod:`~nomadiff.metrics.manifold`.
    """

    detector: Detector
    features: Tensor | None
    statistics: Statistics
    radii: Tensor | None
    k: int
    convention: str

    def distance(self, features: Tensor) -> float:
        """Frechet distance of features ``(N, D)`` to the reference."""
        return frechet_distance(self.statistics, Statistics.from_features(features))

    def score_features(self, features: Tensor, interval: float | None = None) -> dict[str, float]:
        """The metrics of features alone: the Frechet distance, precision, recall, density and coverage.

        Args:
            features: float ``(N, D)``, more than k.
            interval: level of the intervals, ``<metric>_low`` and ``<metric>_high``; there are none for fewer than 40.
        """
        member = None if interval is None or len(features) < 2 * GROUPS else random_groups(len(features))
        row, left_out = self.of_features(features, member, False)
        return row | interval_fields(row, left_out, interval)

    def of_features(
        self, features: Tensor, member: Tensor | None, with_kid: bool
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The metrics of features alone, and with groups also their values without each."""
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
        if with_kid:
            name = "kid" if name == "fid" else name.replace("fd_", "kd_", 1)
            if member is None:
                row[name] = kid(self.features, features)
            else:
                row[name], left_out[name] = kid_left_out(self.features, features, member)
        return row, left_out
