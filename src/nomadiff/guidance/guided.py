"""The base class of guidances: a base denoiser, a weight, and the noise levels at which it acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nomadiff.denoiser import BoundDenoiser, Denoiser
from nomadiff.guidance.strength import Interval, check_guidance

__all__ = ["Guided", "evaluations_of", "rows_of"]


class Guided:
    """A denoiser that corrects another one at some noise levels.

    At weight 0 and outside the interval the result is the base's own, bit for bit, and nothing but the base is called
    (the limited interval of Kynkaanniemi et al. 2024, here in sigma). Subclasses write :meth:`guided` and
    :meth:`guided_evaluations`.

    Args:
        base: the denoiser to correct.
        weight: strength of the correction; 0 switches it off, below 0 it is turned around.
        interval: lowest and highest noise level (both included) at which it acts; None for all.

    Raises:
        UsageError: the weight is not finite, or the interval is not ``0 <= low < high``.
    """

    def __init__(self, base: Denoiser, weight: float, interval: Interval | None = None) -> None:
        check_guidance(weight, interval)
        self.base = base
        self.weight = weight
        self.interval = interval

    def __call__(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """Denoise ``x`` ``(B, ...)`` at ``sigma`` (scalar or ``(B,)``); the condition goes to every denoiser within."""
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        active = len(x) if self.interval is None else self._inside(level).expand(len(x)).sum().item()
        if self.weight == 0 or active == 0:
            return self.base(x, level, **condition)
        if active == len(x):
            return self.guided(x, level, **condition)
        # a batch of mixed noise levels, as in training: solvers never make one, so its cost does not matter
        rows = self._inside(level).nonzero()[:, 0]
        corrected = self.guided(x[rows], level[rows], **rows_of(condition, rows, len(x)))
        return self.base(x, level, **condition).index_copy(0, rows, corrected)

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The corrected estimate, every row of the batch being inside the interval."""
        raise NotImplementedError

    def guided_evaluations(self, sigma: float) -> float:
        """Network evaluations of one call of :meth:`guided`."""
        raise NotImplementedError

    def evaluations(self, sigma: float) -> float:
        """Network evaluations a sample that one call at this noise level costs: what NFE counts.

        The part of a network that is run for an auxiliary counts by its share of the network's operations, as the SIMS
        paper counts (appendix A). Gradients of classifiers and discriminators are not network evaluations.
        """
        return self.guided_evaluations(sigma) if self.is_active(sigma) else evaluations_of(self.base, sigma)

    def is_active(self, sigma: float) -> bool:
        """Whether the correction is computed at this noise level."""
        return self.weight != 0 and bool(self._inside(torch.tensor(sigma, dtype=torch.float32)))

    def _inside(self, level: Tensor) -> Tensor:
        if self.interval is None:
            return torch.ones_like(level, dtype=torch.bool)
        return (level >= self.interval[0]) & (level <= self.interval[1])


def evaluations_of(denoiser: Denoiser, sigma: float) -> float:
    """Network evaluations a sample of one call of any denoiser at noise level ``sigma``; 1 for a plain one."""
    while isinstance(denoiser, BoundDenoiser):
        denoiser = denoiser.denoiser
    return denoiser.evaluations(sigma) if isinstance(denoiser, Guided) else 1.0


def rows_of(condition: Mapping[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
    """The condition of some rows of a batch: tensors with an entry a sample are cut, everything else is shared."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch:
            return value[rows.to(value.device)]  # labels stay on the host
        return value

    return {name: cut(value) for name, value in condition.items()}
