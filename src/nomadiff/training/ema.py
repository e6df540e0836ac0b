"""Exponential moving average of the weights: what is sampled from."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["ModuleEMA"]

M = TypeVar("M", bound=nn.Module)


class ModuleEMA(Generic[M]):
    """EDM's moving average: a half-life in images, shortened early in training.

    After each step ``ema <- beta ema + (1 - beta) weights`` with ``beta = 0.5^(batch / half_life)`` and
    ``half_life = min(ema_half_life, ema_rampup * images_seen)`` (Karras et al. 2022, appendix F.2).

    Like :class:`~nomadiff.training.phema.PowerEMA` it has ``modules``, all its averages, and ``module``, the model.

    Args:
        module: the module to follow; it is copied, and its parameters are read at every update.
        half_life: images after which an old weight counts half; 0 makes the average the weights themselves.
        rampup: bound of the half-life as a share of the images seen; None for no bound.
    """

    def __init__(self, module: M, half_life: float, rampup: float | None) -> None:
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)
        self.modules = (self.module,)
        self.half_life = half_life
        self.rampup = rampup
        # listed once: walking through a module costs as much as averaging a small one
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(module.parameters())
        # buffers are not averaged: what a user's own network keeps in them (running statistics) is as of now
        self._buffers = list(zip(self.module.buffers(), module.buffers()))

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Take in the weights after a step of ``batch`` images; ``images_seen`` counts those before the step."""
        half_life = self.half_life
        if self.rampup is not None:
            half_life = min(half_life, self.rampup * images_seen)
        beta = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(self._averages, self._weights, 1 - beta)
        for kept, current in self._buffers:
            kept.copy_(current)
