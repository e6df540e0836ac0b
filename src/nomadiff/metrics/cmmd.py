"""CMMD (Jayasumana et al. 2024, "Rethinking FID"): a mean discrepancy of CLIP features, unbiased in their number.

The kernel is Gaussian, ``exp(-|x - y|^2 / (2 sigma^2))`` with sigma 10, of CLIP's image embeddings at unit length
(ViT-L/14 at 336 pixels); the squared discrepancy is multiplied by 1000. It assumes no Gaussian features, as the Frechet
distance does, and the expectation of this estimate does not depend on the number of images. The authors' published
code takes the biased one, which also counts each image with itself: a few ``1 / n`` more for n images a side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.metrics.mmd import squared_mmd
from nomadiff.metrics.neighbours import as_points

__all__ = ["SCALE", "SIGMA", "cmmd", "cmmd_left_out"]

SIGMA = 10.0
SCALE = 1000.0


class _Gaussian:
    """The kernel less 1: a constant drops out of the estimate, and near 1 most digits would be lost with it."""

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        return torch.expm1(-squared.clamp_(min=0) / (2 * SIGMA**2))

    def itself(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64)


def cmmd(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> float:
    """CMMD of all features, in blocks.

    Args:
        real: float features ``(N, D)``, at least 2; of detector ``clip`` they have unit length.
        fake: float features ``(M, D)``, at least 2.

    Raises:
        UsageError: too few features, different dimensions, or a value that is not finite.
    """
    return cmmd_left_out(real, fake, torch.zeros(len(fake), dtype=torch.int64))[0]


def cmmd_left_out(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, member: Tensor) -> tuple[float, np.ndarray]:
    """As :func:`cmmd`, and the same without each group of ``fake`` in turn, in one pass.

    Args:
        real, fake: as for :func:`cmmd`.
        member: group of each generated feature, int64 ``(M,)``, see :func:`~nomadiff.metrics.intervals.random_groups`.

    Returns:
        The value, and float64 ``(groups,)``.
    """
    value, left_out = squared_mmd(as_points(real, "real"), as_points(fake, "fake"), member, _Gaussian(), "CMMD")
    return SCALE * value, SCALE * left_out.numpy()
