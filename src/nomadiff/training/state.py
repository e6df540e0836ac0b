"""The state of an interrupted training: weights, averages, Adam's moments and the images seen, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError
from nomadiff.networks.build import misfit
from nomadiff.training.run_folder import load_tensors, save_tensors

__all__ = ["load_state", "save_state"]


def save_state(
    path: Path,
    module: nn.Module,
    averages: Mapping[str, nn.Module],
    optimizer: torch.optim.Adam,
    images_seen: int,
    **facts: int,
) -> None:
    """Write a state in one atomic step; ``averages`` by the name that each has in the file, ``facts`` by theirs.

    Raises:
        NomadiffError: as :func:`~nomadiff.training.run_folder.save_tensors`.
    """
    save_tensors(path, _weights(module, averages) | _moments(optimizer), {"images_seen": images_seen, **facts})


def load_state(
    path: Path, module: nn.Module, averages: Mapping[str, nn.Module], optimizer: torch.optim.Adam
) -> dict[str, Any]:
    """Fill all of these from a state and give its facts, ``images_seen`` among them; all or nothing.

    Raises:
        DataError: the file is absent or damaged, or the state of another training.
    """
    tensors, metadata = load_tensors(path)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected = _weights(module, averages)
    step = torch.zeros(())
    for index, parameter in enumerate(parameters):
        if f"adam.{index}.step" in tensors:  # unused parameters have no moments
            expected |= {f"adam.{index}.{name}": value for name, value in _adam(step, parameter, parameter).items()}
    # shapes of moments are checked here only: the fused optimizer would read and write beyond them
    if reason := misfit(expected, tensors):
        raise DataError(f"{path}: not the state of this training ({reason})")
    images_seen = metadata.get("images_seen")
    if type(images_seen) is not int or images_seen < 0:
        raise DataError(f"{path}: not the state of this training (it does not say how many images were seen)")
    for prefix, each in [("weights", module), *averages.items()]:
        each.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in each.state_dict()})
    state = {}
    for index, parameter in enumerate(parameters):
        if (count := tensors.get(f"adam.{index}.step")) is not None:
            # moments lie in memory as their weights do: the fused optimizer walks both in one order
            laid = [
                torch.empty_like(parameter).copy_(tensors[f"adam.{index}.{name}"]) for name in ("exp_avg", "exp_avg_sq")
            ]
            state[index] = _adam(count, *laid)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return metadata


def _weights(module: nn.Module, averages: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": value
        for prefix, each in [("weights", module), *averages.items()]
        for name, value in each.state_dict().items()
    }


def _moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    return {
        f"adam.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _adam(step: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    return {"step": step, "exp_avg": first, "exp_avg_sq": second}
