"""SDA: the baseline that takes synthetic data for real."""

from __future__ import annotations

from nomadiff.methods.method import Method

__all__ = ["SDA"]


class SDA(Method):
    """Synthetic data augmentation: an unlabelled model of the union of all sources (CASD paper, section 4.1).

    It learns the mixture, so it is biased toward every synthetic source by that source's share.
    """

    name = "sda"
    description = "Trained on real and synthetic images together, without telling them apart."
