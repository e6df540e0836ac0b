"""Guidance in the space of parameters: one network at the cost of one (SIMS eq. 6; Neon)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.networks.edm2 import MPConv

__all__ = ["merged"]


@torch.no_grad()
def merged(base: EDMDenoiser, *others: tuple[EDMDenoiser, float]) -> EDMDenoiser:
    """A network with the parameters ``theta + sum_i w_i (theta - theta_i)``, computed in float32.

    With one other model, the base fine-tuned on its own samples, this is SIMS' eq. 6 and Neon (Alemohammad et al.
    2025); with two, one fine-tuned on more real images and one on its own, SIMS' Figure 3. It is guidance only as far
    as the network is linear in its parameters between them: unlike in function space, the fine-tuning must have stayed
    close (small learning rate, short).

    EDM2's layers divide their weights by their magnitude whenever they are called, so a stored magnitude has
    no meaning: an average's is smaller than that of weights just trained. All are taken at magnitude 1 before merging.

    Args:
        base: the model to improve; it is copied, buffers and all.
        *others: pairs of a model with the same architecture and its weight.

    Returns:
        The merged denoiser, in evaluation mode; weights that are all 0 give the base's parameters bit for bit.

    Raises:
        UsageError: a model has other parameters than the base, or a merged one is not finite.
    """
    result = copy.deepcopy(base).float().eval().requires_grad_(False)
    parameters = dict(result.named_parameters())
    origin = {name: value.float() for name, value in base.named_parameters()}
    names = _magnitude_free(base)
    for other, _ in others:
        theirs = dict(other.named_parameters())
        if different := [name for name in parameters.keys() | theirs.keys() if not _same_shape(name, origin, theirs)]:
            raise UsageError(f"only models of one architecture can be merged; they differ in {min(different)}")
    if any(weight for _, weight in others):
        for name in names:
            origin[name] = _of_magnitude_1(origin[name])
            parameters[name].copy_(origin[name])
    for other, weight in others:
        if weight == 0:
            continue
        for name, parameter in other.named_parameters():
            value = parameter.float().to(origin[name].device)
            # theta + w (theta - theta_i), not (1 + w) theta - w theta_i: equal weights then cancel exactly
            parameters[name].add_(origin[name] - (_of_magnitude_1(value) if name in names else value), alpha=weight)
    for name, value in parameters.items():
        if not bool(torch.isfinite(value).all()):
            raise UsageError(f"merged with these weights, {name} is not finite: choose smaller ones")
    return result


def _magnitude_free(denoiser: EDMDenoiser) -> set[str]:
    """Names of the parameters whose magnitude does not count."""
    return {f"{name}.weight" for name, module in denoiser.named_modules() if isinstance(module, MPConv)}


def _of_magnitude_1(weight: Tensor) -> Tensor:
    """EDM2's weights with every output channel scaled to root mean square 1; a channel of zeros stays."""
    size = weight.square().mean(dim=tuple(range(1, weight.ndim)), keepdim=True).sqrt()
    return weight / torch.where(size > 0, size, torch.ones_like(size))


def _same_shape(name: str, one: dict, other: dict) -> bool:
    return name in one and name in other and one[name].shape == other[name].shape
