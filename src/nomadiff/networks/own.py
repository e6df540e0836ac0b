"""Networks of a user's own: an ``nn.Module`` class, named ``module:qualname`` in recipes.

Such a class is called as ``Network(channels=..., resolution=..., label_dim=..., **settings)`` and has the method
``forward(x, noise_label, labels)``: float32 ``(B, C, H, W)``, ``(B,)`` and ``(B, label_dim)`` (None without labels) to
``(B, C, H, W)``; see :meth:`nomadiff.networks.unet.UNet.forward`.

A class with the method ``forward(x, sigma)``, and ``source`` or ``class_label`` behind it if it knows any, is a
denoiser by itself (:class:`~nomadiff.denoiser.OwnDenoiser`): no preconditioning is put around it. Its constructor gets
those of ``channels``, ``resolution`` and ``label_dim`` that it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.plain import parse_json
from nomadiff.registry import Registry

__all__ = ["OWN_NETWORKS", "Unplannable", "build_own", "check_own", "is_own_denoiser", "own_name"]

_TAKEN = ("channels", "resolution", "label_dim")


class Unplannable(UsageError):
    """A network of a user's own that cannot be built, or run, on the device "meta", where nothing is computed."""


def _flaw(part: Any) -> str:
    # by names that no other class has: a recipe names the class, and whatever happens to be imported may be one
    wanted = f"it must be an nn.Module class whose constructor takes {', '.join(_TAKEN)} by these names"
    if not isinstance(part, type) or not issubclass(part, nn.Module) or issubclass(part, EDMDenoiser):
        return wanted
    if _is_denoiser(part):
        return ""
    if not set(_TAKEN) <= signature(part).parameters.keys():
        return wanted
    if tuple(signature(part.forward).parameters)[1:4] != ("x", "noise_label", "labels"):
        return "its forward must take x, noise_label, labels, or x, sigma of a denoiser"
    return ""


def _is_denoiser(network: type[nn.Module]) -> bool:
    return tuple(signature(network.forward).parameters)[1:3] == ("x", "sigma")


OWN_NETWORKS: Registry[type[nn.Module]] = Registry("network", _flaw, {})


def is_own_denoiser(name: str) -> bool:
    """Whether a network of a user's own is a denoiser by itself.

    Raises:
        UsageError: its module was not imported, or it is no network.
    """
    return _is_denoiser(OWN_NETWORKS.find(name))


def own_name(network: type[nn.Module] | partial[nn.Module] | str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """What a recipe says of a network: the name of its class, and its settings as JSON.

    Args:
        network: its class, or that class with settings bound (``functools.partial``), or its name.
        settings: further keywords of its constructor, plain values.

    Raises:
        UsageError: it is no such class, or does not take these settings.
    """
    bound: Any = network
    if isinstance(bound, partial):
        if bound.args:
            raise UsageError("settings of a network are bound by keyword: partial(Network, width=64)")
        settings, bound = {**bound.keywords, **settings}, bound.func
    try:
        text = json.dumps(settings, allow_nan=False, sort_keys=True) if settings else ""
    except (TypeError, ValueError) as error:
        raise UsageError(f"settings of a network are plain values that JSON can hold ({error})") from error
    name = OWN_NETWORKS.name_of(bound)
    check_own(name, text)
    return name, text


def check_own(name: str, settings: str) -> dict[str, Any]:
    """The settings of a network of a user's own, from their JSON, once its class is known and takes them.

    Raises:
        UsageError: its module was not imported, it is no network, or a setting is unknown or missing.
    """
    parameters = signature(OWN_NETWORKS.find(name)).parameters
    given: dict[str, Any] = parse_json(settings or "{}", "network settings", dict)
    wanted = {
        key
        for key, value in parameters.items()
        if value.default is Parameter.empty and value.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    }
    if missing := sorted(wanted - {*_TAKEN, *given}):
        raise UsageError(f"network {name} needs the setting {', '.join(missing)}")
    takes_any = any(value.kind is Parameter.VAR_KEYWORD for value in parameters.values())
    if unknown := sorted(({*given} - {*parameters} if not takes_any else set()) | ({*given} & {*_TAKEN})):
        raise UsageError(f"network {name} takes no setting {', '.join(unknown)}")
    return given


def build_own(name: str, settings: str, **taken: int) -> nn.Module:
    """The network, with whatever weights its constructor draws.

    Args:
        name, settings: as of :func:`own_name`.
        **taken: channels, resolution and label_dim.

    Raises:
        UsageError: as :func:`check_own`, or its constructor fails (:class:`Unplannable` on the device "meta").
    """
    given, network = check_own(name, settings), OWN_NETWORKS.find(name)
    if _is_denoiser(network):
        taken = {key: value for key, value in taken.items() if key in signature(network).parameters}
    try:
        return network(**taken, **given)
    except NomadiffError:
        raise
    except Exception as error:  # whatever a stranger's constructor raises
        kind = Unplannable if torch.get_default_device().type == "meta" else UsageError
        raise kind(f"network {name} cannot be built ({type(error).__name__}: {error})") from error
