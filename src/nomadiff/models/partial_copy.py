"""Copies of a model of which only a part was trained: the base's weights in the rest."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nomadiff.denoiser import EDMDenoiser
from nomadiff.models.train_parts import TRAIN_PARTS, trained_prefixes
from nomadiff.networks.edm2 import normalise
from nomadiff.training.config import RunConfig

__all__ = ["with_frozen_part_of"]


@torch.no_grad()
def with_frozen_part_of(base: EDMDenoiser, auxiliary: EDMDenoiser, recipe: RunConfig) -> EDMDenoiser:
    """The auxiliary's denoiser with the part that was not trained taken from the base, so that it can be shared.

    It is the base's already, except that EDM2 rescales stored weights whenever it trains, the frozen ones too: their
    function is the base's, and now their numbers are. An auxiliary of another base is left as it is.

    Args:
        base: the base's denoiser.
        auxiliary: the auxiliary's; not changed.
        recipe: the auxiliary's, which says what was trained.
    """
    if recipe.method != TRAIN_PARTS["decoder"] or recipe.network.architecture != "edm2":
        return auxiliary
    trained = trained_prefixes(recipe)
    ours, theirs = auxiliary.network.state_dict(), base.network.state_dict()
    frozen = [name for name in ours if not name.startswith(trained)]
    if not all(name in theirs and _same_function(ours[name], theirs[name]) for name in frozen):
        return auxiliary
    denoiser = copy.deepcopy(auxiliary)
    ours = denoiser.network.state_dict()
    for name in frozen:
        ours[name].copy_(theirs[name])
    return denoiser


def _same_function(one: Tensor, other: Tensor) -> bool:
    """Whether two of EDM2's tensors count the same: weights up to the scale of each output channel."""
    if one.shape != other.shape:
        return False
    other = other.to(one.device)
    if one.ndim < 2:
        return torch.equal(one, other)
    dims = tuple(range(1, one.ndim))
    return torch.allclose(normalise(one, dims), normalise(other, dims), rtol=1e-3, atol=1e-3)
