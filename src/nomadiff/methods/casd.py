"""CASD: train on every source with a source label, sample the real one."""

from __future__ import annotations

from nomadiff.methods.method import Method

__all__ = ["CASD"]


class CASD(Method):
    """Conditional augmentation with synthetic data (CASD paper, section 3.2, Algorithms 1 and 2).

    One network ``f(R(x), e(y))`` is trained on all sources with the source label ``y`` (0 real, 1..K synthetic) by
    eq. 5 and sampled with ``y = 0``. Representations are shared; the distribution that is sampled is the real one.
    """

    name = "casd"
    description = "Trained on all images with a source label, sampled with the label fixed to real."
    labels_sources = True
