"""EDM's training objective, which CASD (eq. 4 and 5) takes over with a source label beside the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nomadiff.denoiser import Denoiser

__all__ = ["edm_loss", "share_above", "training_levels", "with_uncertainty"]


def training_levels(
    count: int, p_mean: float, p_std: float, generator: torch.Generator, floors: Tensor | None = None
) -> Tensor:
    """Noise levels for training, ``ln sigma ~ N(p_mean, p_std^2)`` (EDM, Table 1).

    Args:
        count: how many.
        p_mean, p_std: mean and standard deviation of ln(sigma).
        generator: where they are drawn, and on which device.
        floors: a lower bound for each, 0 for none, float32 ``(count,)``: the distribution is restricted to what lies
            above it. Draws without a bound are the same as without floors.

    Returns:
        float32 ``(count,)``.
    """
    draws = torch.randn(count, generator=generator, device=generator.device)
    if floors is None:
        return (draws * p_std + p_mean).exp()
    # by the inverse of the survival function, which is exact in the upper tail too
    tail = share_above(floors, p_mean, p_std) * torch.special.ndtr(-draws)
    restricted = torch.where(floors > 0, -torch.special.ndtri(tail), draws)
    return torch.maximum((restricted * p_std + p_mean).exp(), floors)


def share_above(floors: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Share of the training's noise levels above each floor: float32 in 0..1, the shape of ``floors``."""
    return torch.special.ndtr((p_mean - floors.log()) / p_std)


def edm_loss(
    denoiser: Denoiser, clean: Tensor, sigma: Tensor, noise: Tensor, *, sigma_data: float = 0.5, **condition: Any
) -> Tensor:
    """Weighted squared error of every pixel: ``lambda(sigma) |D(clean + sigma noise, sigma) - clean|^2``.

    ``lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` (Karras et al. 2022, eq. 2 and Table 1). With
    the source label in ``condition`` this is CASD's eq. 4; its mean over real and synthetic images is eq. 5.

    Args:
        denoiser: ``D(x, sigma, **condition)``.
        clean: images in [-1, 1], float32 ``(B, C, H, W)``.
        sigma: noise level of each image, ``(B,)``.
        noise: standard normal, the shape of ``clean``.
        sigma_data: standard deviation of the data.

    Returns:
        float32, the shape of ``clean``; not reduced.
    """
    level = sigma.reshape(-1, *[1] * (clean.ndim - 1))
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    return weight * (denoiser(clean + level * noise, sigma, **condition) - clean) ** 2


def with_uncertainty(loss: Tensor, log_variance: Tensor) -> Tensor:
    """EDM2's objective: ``loss / e^u + u``, least where ``e^u`` is the loss to be expected at that noise level.

    All noise levels then pull on the network with equal force (Karras et al. 2024, eq. 21).

    Args:
        loss: of :func:`edm_loss`, ``(B, ...)``.
        log_variance: the network's ``u(sigma)`` for each image, ``(B,)``.

    Returns:
        float32, the shape of ``loss``.
    """
    u = log_variance.reshape(-1, *[1] * (loss.ndim - 1))
    return loss / u.exp() + u
