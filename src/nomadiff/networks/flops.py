"""The cost of a network, counted without allocating it."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nomadiff.errors import NomadiffError
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.own import Unplannable

__all__ = ["flops_of", "parameters_of"]


def parameters_of(module: nn.Module) -> int:
    """Number of trainable values of ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def flops_of(config: NetworkConfig, label_dim: int = 0) -> float:
    """Floating-point operations of one forward pass on one image.

    Multiplications and additions count as one operation each, in convolutions, matrix products and attention; papers
    that count multiply-adds print half of it. A training step costs three times as much (forward, and backward for
    inputs and weights). NaN where a network of a user's own cannot be counted without computing, and for a denoiser of
    a user's own with labels.

    Raises:
        UsageError: the settings contradict each other.
    """
    # counted once, as a study's arms share a network; what a name of the user's own means may change
    return (_counted.__wrapped__ if config.is_own else _counted)(config, label_dim)


@cache
def _counted(config: NetworkConfig, label_dim: int) -> float:
    if label_dim and config.is_own_denoiser:
        return math.nan  # which of the labels it takes by which name is not known here
    try:
        with torch.device("meta"):
            network = build_network(config, label_dim)
            x = torch.empty(1, config.channels, config.resolution, config.resolution)
            labels = torch.empty(1, label_dim) if label_dim else None
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(x, torch.empty(1), *([] if config.is_own_denoiser else [labels]))
    except Exception as error:
        if config.is_own and (isinstance(error, Unplannable) or not isinstance(error, NomadiffError)):
            return math.nan
        raise
    return float(counter.get_total_flops())
