"""Guidance in the space of parameters: one network at the cost of one (SIMS eq. 6; Neon)."""

from __future__ import annotations

import copy

import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError

__all__ = ["merged"]


@torch.no_grad()
def merged(base: EDMDenoiser, *others: tuple[EDMDenoiser, float]) -> EDMDenoiser:
    """A network with the parameters ``theta + sum_i w_i (theta - theta_i)``, computed in float32.

    With one other model, the base fine-tuned on its own samples, this is SIMS' eq. 6 and Neon (Alemohammad et al.
    2025); with two, one fine-tuned on more real images and one on its own, SIMS' Figure 3. It is guidance only as far
    as the network is linear in its parameters between them: unlike in function space, the fine-tuning must have stayed
    close (small learning rate, short).

    Args:
        base: the model to improve; it is copied, buffers and all.
        *others: pairs of a model with the same architecture and its weight.

    Returns:
        The merged denoiser, in evaluation mode; weights that are all 0 give the base's parameters bit for bit.

    Raises:
        UsageError: a model has other parameters than the base.
    """
    result = copy.deepcopy(base).float().eval().requires_grad_(False)
    parameters = dict(result.named_parameters())
    origin = {name: value.float() for name, value in base.named_parameters()}
    for other, weight in others:
        theirs = dict(other.named_parameters())
        if different := [name for name in parameters.keys() | theirs.keys() if not _same_shape(name, origin, theirs)]:
            raise UsageError(f"only models of one architecture can be merged; they differ in {min(different)}")
        if weight == 0:
            continue
        for name, value in parameters.items():
            # theta + w (theta - theta_i), not (1 + w) theta - w theta_i: equal weights then cancel exactly
            value.add_(origin[name] - theirs[name].float().to(value.device), alpha=weight)
    return result


def _same_shape(name: str, one: dict, other: dict) -> bool:
    return name in one and name in other and one[name].shape == other[name].shape
