"""How a model's networks compute while it draws: their precision, and the layout of their weights in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch

from nomadiff.denoiser import BoundDenoiser, EDMDenoiser, OwnDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.guided import Guided
from nomadiff.guidance.perturbed_attention import PerturbedAttention
from nomadiff.networks.flops import flops_of
from nomadiff.networks.layers import has_fused_kernels
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.precision import AUTOCAST, PRECISIONS, has_fast_half, pays_in_half, resolved_precision

__all__ = ["computing_in", "drawing_precision", "may_draw_in_half", "networks_of"]

_LARGE = 500_000  # weights


def networks_of(denoiser: Any) -> list[EDMDenoiser]:
    """The networks that a denoiser is made of, each once; none within a function of a user's own."""
    if isinstance(denoiser, EDMDenoiser):
        return [denoiser]
    if not isinstance(denoiser, (BoundDenoiser, Guided, PerturbedAttention)):
        return []
    found = [network for part in vars(denoiser).values() for network in networks_of(part)]
    return list({id(network): network for network in found}.values())


def drawing_precision(precision: str, denoiser: Any, known: Facts, device: torch.device) -> str:
    """The precision to draw in: "fp32", "bf16" or "fp16".

    Args:
        precision: one of :data:`~nomadiff.training.precision.PRECISIONS`. "auto" is fp32 for a model that was trained
            in fp32; one that was trained in half precision is drawn in that, or in the other kind, where it is fast.
        denoiser: what is drawn from.
        known: what is known of it.
        device: where it computes.

    Raises:
        UsageError: no such precision, or a denoiser of a user's own that is no network.

    Warns:
        NomadiffWarning: half precision is asked for by name and is slow on this device.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    if precision not in ("auto", "fp32") and not networks_of(denoiser):
        raise UsageError(f"this model is a denoiser of your own: it computes in its own precision, not in {precision}")
    if precision != "auto":
        return resolved_precision(precision, device, 0)
    if not may_draw_in_half(known):
        return "fp32"
    chosen, trained = resolved_precision("auto", device, _operations(known)), known.training.precision
    # fp16 has more digits than bf16, and a network that was trained in it has the range for it
    return trained if chosen != "fp32" and trained != "auto" and has_fast_half(device, trained) else chosen


def may_draw_in_half(known: Facts) -> TypeGuard[RunConfig]:
    """Whether "auto" depends on the machine: the model was trained in half precision, and is large enough to gain."""
    return isinstance(known, RunConfig) and known.training.precision != "fp32" and pays_in_half(_operations(known))


def _operations(known: RunConfig) -> float:
    return flops_of(known.network, known.sources + known.classes)


@contextmanager
def computing_in(networks: Sequence[EDMDenoiser], precision: str, device: torch.device) -> Iterator[None]:
    """While the block runs, networks compute in this precision, with their weights laid out as that is fastest.

    fp32 leaves a network what it computes in by itself. Afterwards precision and layout are what they were: a layout
    changes how sums are rounded, and a training that draws now and then has to round as one that does not.

    Args:
        networks: see :func:`networks_of`.
        precision: "fp32", "bf16" or "fp16".
        device: where they are.
    """
    before = [(network.autocast, _layout(network)) for network in networks]
    for network in networks:
        network.autocast = AUTOCAST[precision] or network.autocast
        if not isinstance(network, OwnDenoiser):  # which may look at its weights in its own way
            network.to(memory_format=_fastest_layout(network, device))  # type: ignore[call-overload]
    try:
        yield
    finally:
        for network, (dtype, layout) in zip(networks, before):
            network.autocast = dtype
            if not isinstance(network, OwnDenoiser):
                network.to(memory_format=layout)  # type: ignore[call-overload]


def _layout(network: EDMDenoiser) -> torch.memory_format:
    images = (weight for weight in network.parameters() if weight.dim() == 4)
    return torch.contiguous_format if all(weight.is_contiguous() for weight in images) else torch.channels_last


def _fastest_layout(network: EDMDenoiser, device: torch.device) -> torch.memory_format:
    # channels last makes convolutions faster, and on a CPU group norm slower: in half precision by more than they gain,
    # and in networks as small as "digits" (docs/benchmarks.md)
    if device.type == "cpu":
        small = sum(parameter.numel() for parameter in network.parameters()) < _LARGE
        slowed = small or network.autocast is not None
    else:
        slowed = not has_fused_kernels(device)
    return torch.contiguous_format if slowed else torch.channels_last
