"""From a configuration to a network, and from EDM's parameter names to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from nomadiff.errors import DataError
from nomadiff.networks.adm import ADM
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.ddpmpp import DDPMpp
from nomadiff.networks.edm2 import EDM2
from nomadiff.networks.unet import UNet
from nomadiff.networks.unet2d import UNet2D

__all__ = ["build_network", "load_edm_state"]

_NETWORKS: dict[str, type[UNet]] = {
    "ddpmpp": DDPMpp,
    "ncsnpp": DDPMpp,
    "adm": ADM,
    "edm2": EDM2,
}


def build_network(config: NetworkConfig, label_dim: int = 0) -> UNet:
    """Build the network ``config`` describes, with freshly drawn weights (torch's global generator).

    Under ``torch.device("meta")`` nothing is allocated: shapes and counts only.

    Args:
        config: architecture.
        label_dim: width of the label vector (sources + classes), 0 without labels.

    Returns:
        The network, called as ``network(x, noise_label, labels, augment)``.

    Raises:
        UsageError: the settings contradict each other.
    """
    config.validate()
    if config.architecture == "unet2d":  # called as a UNet is, but without its parts
        return cast(UNet, UNet2D(config, label_dim))
    return _NETWORKS[config.architecture](config, label_dim)


def load_edm_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that carry EDM's parameter names, as its published networks and training states do.

    EDM keeps the network under ``model.`` (EDM2: ``unet.``) inside its preconditioning and stores the constant
    resampling filters as buffers; the first is cut off here and the second are left out, everything else has the same
    name in nomadiff.

    Raises:
        DataError: a weight is missing, unknown or of another shape; the message names it.
    """
    ours = {
        name.removeprefix("model.").removeprefix("unet."): value
        for name, value in state.items()
        if not name.endswith("resample_filter")
    }
    expected = network.state_dict()
    wrong = [f"{name} is missing" for name in expected.keys() - ours.keys()]
    wrong += [f"{name} is unknown" for name in ours.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {tuple(ours[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & ours.keys()
        if ours[name].shape != expected[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError(f"these weights do not fit the network: {min(wrong)}{more}")
    network.load_state_dict(ours)
