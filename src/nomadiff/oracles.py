"""Denoisers known in closed form: what a perfectly trained model would be. They test solvers, metrics and methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["GaussianDenoiser", "IdealDenoiser"]


class GaussianDenoiser:
    """The exact denoiser of a Gaussian with mean ``mu`` and diagonal variance ``v``, whose solution is known.

    ``D(x, sigma) = mu + v / (v + sigma^2) (x - mu)``. The probability-flow ODE (EDM eq. 1) keeps
    ``(x - mu) / sqrt(v + sigma^2)`` constant, see :meth:`solution`.

    Args:
        mean: mean of the data, broadcastable to one sample.
        variance: variance of the data per coordinate, broadcastable to one sample.
    """

    def __init__(self, mean: Tensor | float = 0.0, variance: Tensor | float = 0.25) -> None:
        self.mean = torch.as_tensor(mean)
        self.variance = torch.as_tensor(variance)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Posterior mean of the clean sample; shape and dtype of ``x``."""
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        mean, variance = self.mean.to(x.dtype), self.variance.to(x.dtype)
        return mean + variance / (variance + level**2) * (x - mean)

    def solution(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """Where the probability-flow ODE carries ``x`` from noise level ``sigma_from`` to ``sigma_to``, exactly."""
        mean, variance = self.mean.to(x.dtype), self.variance.to(x.dtype)
        return mean + ((variance + sigma_to**2) / (variance + sigma_from**2)).sqrt() * (x - mean)


class IdealDenoiser:
    """The exact denoiser of a finite set of samples: a model that has memorised its training set and nothing else.

    ``D(x, sigma) = sum_i softmax_i(-|x - x_i|^2 / (2 sigma^2)) x_i``. Sampling with it returns training samples, which
    is what a replication metric must catch.

    Args:
        data: float32 ``(N, ...)``, the finite set.
    """

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Posterior mean of the clean sample; shape and dtype of ``x``."""
        data = self.data.to(x.dtype).flatten(1)
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
        distance = torch.cdist(x.flatten(1), data) ** 2
        weight = torch.softmax(-distance / (2 * level**2), dim=1)
        return (weight @ data).reshape(x.shape)
