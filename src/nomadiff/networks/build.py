"""Build networks from configurations, and load weights with EDM's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from nomadiff.denoiser import EDMDenoiser, OwnDenoiser
from nomadiff.errors import DataError
from nomadiff.networks.adm import ADM
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.ddpmpp import DDPMpp
from nomadiff.networks.edm2 import EDM2
from nomadiff.networks.own import Unplannable, build_own
from nomadiff.networks.unet import UNet
from nomadiff.networks.unet2d import UNet2D
from nomadiff.safe_pickle import printable

__all__ = ["build_denoiser", "build_filled", "build_network", "load_edm_state", "misfit"]

Built = TypeVar("Built", bound=nn.Module)

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
        The network, called as ``network(x, noise_label, labels, augment)``; one of a user's own without ``augment``.

    Raises:
        UsageError: the settings contradict each other, or the module of a user's own network was not imported.
    """
    config.validate()
    if config.is_own:
        taken = {"channels": config.channels, "resolution": config.resolution, "label_dim": label_dim}
        return cast(UNet, build_own(config.architecture, config.settings, **taken))
    if config.architecture == "unet2d":  # called as a UNet is, but without its parts
        return cast(UNet, UNet2D(config, label_dim))
    return _NETWORKS[config.architecture](config, label_dim)


def build_denoiser(config: NetworkConfig, *, sources: int, classes: int, sigma_data: float) -> EDMDenoiser:
    """The network with its preconditioning; a denoiser of a user's own as it is.

    Raises:
        UsageError: as :func:`build_network`, or a denoiser of a user's own takes no such label.
    """
    network = build_network(config, label_dim=sources + classes)
    kind = OwnDenoiser if config.is_own_denoiser else EDMDenoiser
    return kind(network, sources=sources, classes=classes, sigma_data=sigma_data)


def load_edm_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that carry EDM's parameter names, as its published networks and training states do.

    EDM keeps the network under ``model.`` (EDM2: ``unet.``) inside its preconditioning and stores the constant
    resampling filters as buffers; the first is cut off here and the second are left out, everything else has the same
    name in nomadiff.

    Raises:
        DataError: a weight is missing, unknown, of another shape or not finite; the message names it.
    """
    ours = {
        name.removeprefix("model.").removeprefix("unet."): value
        for name, value in state.items()
        if not name.endswith("resample_filter")
    }
    if reason := misfit(network.state_dict(), ours):
        raise DataError(f"these weights do not fit the network: {reason}")
    network.load_state_dict(ours)


def build_filled(build: Callable[[], Built], weights: Mapping[str, Tensor]) -> Built:
    """A module with these weights. It is planned first: a file's recipe allocates no more than its weights do.

    Args:
        build: makes the module with any weights; called twice, the first time on the device "meta".
        weights: what its ``state_dict`` is to be.

    Raises:
        DataError: a weight is missing, unknown or of another shape; the message names it.
    """
    try:
        with torch.device("meta"):
            planned = build().state_dict()
    except Unplannable:  # a class of the user's own, which the user has imported: it may allocate what it likes
        planned = None
    if planned is not None and (reason := misfit(planned, weights)):
        raise DataError(reason)
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{name} is not finite (NaN or infinity): its training diverged, or the file is damaged")
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and thrown away: the generator is restored
        module = build()
    if planned is None and (reason := misfit(module.state_dict(), weights)):
        raise DataError(reason)
    module.load_state_dict(weights)
    return module


def misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Why weights do not fit a network (names and shapes), in a few words; None if they do."""
    wrong = [f"{name} is missing" for name in expected.keys() - given.keys()]
    wrong += [f"{printable(name)} is unknown" for name in given.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & given.keys()
        if given[name].shape != expected[name].shape
    ]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{min(wrong)}{more}" if wrong else None
