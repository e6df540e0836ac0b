"""The decreasing noise levels a solver walks through."""

from __future__ import annotations

import torch

from nomadiff.errors import UsageError

__all__ = ["karras_levels"]


def karras_levels(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> torch.Tensor:
    """EDM's noise levels (Karras et al. 2022, eq. 5): dense near the image, sparse in the noise.

    Args:
        steps: number of solver steps, at least 1.
        sigma_min: last noise level before 0, in the units of the image.
        sigma_max: first noise level.
        rho: how unevenly the levels lie; 1 is even spacing.

    Returns:
        float64 ``(steps + 1,)``, decreasing, the last one 0.

    Raises:
        UsageError: ``steps`` < 1, or not 0 < sigma_min <= sigma_max, or rho <= 0.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}")
    if not 0 < sigma_min <= sigma_max or rho <= 0:
        raise UsageError(f"need 0 < sigma_min <= sigma_max and rho > 0, got {sigma_min}, {sigma_max} and {rho}")
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (first + ramp * (last - first)) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
