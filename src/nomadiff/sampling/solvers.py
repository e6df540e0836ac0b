"""Solvers: plain functions that carry noise to an image through any denoiser.

All have one signature, ``solver(denoiser, x, sigmas, noise=None, churn=Churn())``. ``x`` starts as unit noise times
``sigmas[0]``; its dtype is the dtype the solution is carried in (float64 is EDM's choice), while the denoiser is always
called in float32. A guided denoiser needs nothing special: guidance is a denoiser too.

A function of your own with these parameters is a solver as well, see docs/own-parts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from nomadiff.denoiser import Denoiser
from nomadiff.errors import UsageError
from nomadiff.registry import Registry

__all__ = ["SOLVERS", "Churn", "NoiseStream", "Solver", "ddpm", "euler", "heun"]


class NoiseStream(Protocol):
    """The noise of a stochastic solver (``nomadiff.seeding.SampleNoise``)."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal float32 noise on the CPU, one row a sample."""
        ...

    def churn(self, shape: tuple[int, ...], used: bool) -> Tensor | None:
        """The same for one churned step; may be None where it is not used."""
        ...


@dataclass(frozen=True)
class Churn:
    """Stochastic churn of EDM's Algorithm 2: add a little noise before each step, then remove it.

    Attributes:
        amount: S_churn; 0 makes the solver deterministic.
        minimum: S_tmin, lowest noise level that is churned.
        maximum: S_tmax, highest one; None means no bound.
        noise: S_noise, scale of the added noise.
    """

    amount: float = 0.0
    minimum: float = 0.0
    maximum: float | None = None
    noise: float = 1.0

    def gamma(self, sigma: float, steps: int) -> float:
        """By which share the noise level is raised before the step that starts at ``sigma``."""
        if self.amount <= 0 or sigma < self.minimum or (self.maximum is not None and sigma > self.maximum):
            return 0.0
        return min(self.amount / steps, 2**0.5 - 1)


def heun(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseStream | None = None, churn: Churn | None = None
) -> Tensor:
    """Heun's second-order method (EDM Algorithm 2; CASD Algorithm 2 when ``denoiser`` has source 0 bound).

    ``2 * steps - 1`` evaluations: the last step, to noise level 0, is Euler's.

    Args:
        denoiser: ``D(x, sigma)``.
        x: ``(B, ...)``, noise of standard deviation ``sigmas[0]``.
        sigmas: decreasing noise levels ``(steps + 1,)``, the last one 0.
        noise: per-sample noise; needed only with churn.
        churn: stochastic churn, or None.

    Returns:
        The sample, shape and dtype of ``x``.

    Raises:
        UsageError: churn is asked for without ``noise``.
    """
    levels = sigmas.tolist()
    for sigma, following in pairwise(levels):
        x, sigma = _churned(x, sigma, len(levels) - 1, noise, churn)
        slope = (x - _denoise(denoiser, x, sigma)) / sigma
        stepped = x + (following - sigma) * slope
        if following > 0:
            correction = (stepped - _denoise(denoiser, stepped, following)) / following
            stepped = x + (following - sigma) * (slope + correction) / 2
        x = stepped
    return x


def euler(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseStream | None = None, churn: Churn | None = None
) -> Tensor:
    """Euler's first-order method on the same equation; DDIM in EDM's variables. ``steps`` evaluations.

    Arguments, result and errors as in :func:`heun`.
    """
    levels = sigmas.tolist()
    for sigma, following in pairwise(levels):
        x, sigma = _churned(x, sigma, len(levels) - 1, noise, churn)
        x = x + (following - sigma) * (x - _denoise(denoiser, x, sigma)) / sigma
    return x


def ddpm(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseStream | None = None, churn: Churn | None = None
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) in EDM's variables. ``steps`` evaluations.

    One step draws from the Gaussian posterior between noise levels ``s > t``: mean ``D + (t/s)^2 (x - D)``, variance
    ``t^2 (s^2 - t^2) / s^2``, which is DDPM's with the smaller of its two variances.

    Arguments and result as in :func:`heun`.

    Raises:
        UsageError: ``noise`` is missing, or churn is asked for (this solver is stochastic by itself).
    """
    if noise is None:
        raise UsageError("the ddpm solver is stochastic and needs noise= (per-sample streams)")
    if churn is not None and churn.amount > 0:
        raise UsageError("churn belongs to the heun and euler solvers; ddpm is stochastic by itself")
    levels = sigmas.tolist()
    for sigma, following in pairwise(levels):
        clean = _denoise(denoiser, x, sigma)
        x = clean + (following / sigma) ** 2 * (x - clean)
        if following > 0:
            spread = following * (sigma**2 - following**2) ** 0.5 / sigma
            x = x + spread * noise.normal(tuple(x.shape[1:])).to(x)
    return x


Solver = Callable[[Denoiser, Tensor, Tensor, NoiseStream | None, Churn | None], Tensor]

_PARAMETERS = ("denoiser", "x", "sigmas", "noise", "churn")


def _flaw(part: Any) -> str:
    # by their names: a recipe names a solver, and no other function that happens to be imported may be called for it
    if callable(part) and not isinstance(part, type):
        try:
            names = tuple(signature(part).parameters)[:5]
        except ValueError:  # built into Python
            names = ()
        if names == _PARAMETERS:
            return ""
    return f"it must be a function of {', '.join(_PARAMETERS)}"


SOLVERS: Registry[Solver] = Registry("solver", _flaw, {"heun": heun, "euler": euler, "ddpm": ddpm})


def _denoise(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    level = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
    return denoiser(x.float(), level).to(x.dtype)


def _churned(
    x: Tensor, sigma: float, steps: int, noise: NoiseStream | None, churn: Churn | None
) -> tuple[Tensor, float]:
    if churn is None or churn.amount <= 0:
        return x, sigma
    if noise is None:
        raise UsageError("churn adds noise and needs noise= (per-sample streams)")
    gamma = churn.gamma(sigma, steps)
    added = noise.churn(tuple(x.shape[1:]), gamma > 0)
    if gamma == 0:
        return x, sigma
    assert added is not None
    raised = sigma * (1 + gamma)
    spread = (raised**2 - sigma**2) ** 0.5 * churn.noise
    return x + spread * added.to(x), raised
