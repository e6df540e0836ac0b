"""The presets there are, as a table."""

from __future__ import annotations

import math

import torch

from nomadiff.errors import NomadiffError
from nomadiff.networks.build import build_network
from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.networks.own import Unplannable
from nomadiff.tables import Table
from nomadiff.training.presets import PRESETS, Preset

__all__ = ["preset_table"]


def preset_table() -> Table:
    """A row a preset, those that a plugin registered among them.

    The fields are ``preset``, ``parameters``, ``gflop`` (10^9 operations of one forward pass on one image of the size
    it is made for), ``budget`` (images seen), ``batch``, ``learning_rate``, ``precision``, ``nfe`` (network evaluations
    an image when it is sampled) and ``description``.
    """
    return Table([_row(name, preset) for name, preset in PRESETS.items()])


def _row(name: str, preset: Preset) -> dict[str, object]:
    training = preset.training
    return {
        "preset": name,
        "parameters": _parameters(preset),
        "gflop": flops_of(preset.network) / 1e9,
        "budget": training.budget,
        "batch": training.batch,
        "learning_rate": training.learning_rate,
        "precision": training.precision,
        "nfe": preset.sampler.nfe,
        "description": preset.description,
    }


def _parameters(preset: Preset) -> float:
    """Trainable values of its network without labels; NaN where one of a user's own needs more than shapes."""
    try:
        with torch.device("meta"):
            return parameters_of(build_network(preset.network, 0))
    except Exception as error:
        if preset.network.is_own and (isinstance(error, Unplannable) or not isinstance(error, NomadiffError)):
            return math.nan
        raise
