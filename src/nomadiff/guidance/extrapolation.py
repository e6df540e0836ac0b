"""Extrapolation away from a worse model: SIMS, autoguidance, and every guidance with a second denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nomadiff.denoiser import Denoiser
from nomadiff.guidance.guided import Guided, evaluations_of
from nomadiff.guidance.strength import Interval

__all__ = ["Extrapolation"]


class Extrapolation(Guided):
    """``D_base + weight (D_base - D_aux)``: SIMS' score function (Alemohammad et al. 2024, eq. 5), written in D.

    SIMS takes the base fine-tuned on its own samples as the auxiliary; autoguidance (Karras et al. 2024b) a smaller or
    less trained model, its guidance g being ``1 + weight``. Both denoisers get the same condition. They are called one
    after the other, so two networks need the memory of their weights and of one network's activations.

    Args:
        base: the denoiser to improve.
        auxiliary: the one to move away from.
        weight: SIMS' omega.
        interval: noise levels at which the auxiliary is called; None for all.
    """

    def __init__(self, base: Denoiser, auxiliary: Denoiser, weight: float, interval: Interval | None = None) -> None:
        super().__init__(base, weight, interval)
        self.auxiliary = auxiliary

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The extrapolated estimate; ``weight`` -1 gives the auxiliary's."""
        base = self.base(x, sigma, **condition)
        return base + self.weight * (base - self.auxiliary(x, sigma, **condition))

    def guided_evaluations(self, sigma: float) -> float:
        """Those of the base and of the auxiliary."""
        return evaluations_of(self.base, sigma) + evaluations_of(self.auxiliary, sigma)
