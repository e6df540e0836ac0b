"""The cost of one image: network evaluations, operations, parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nomadiff.denoiser import BoundDenoiser
from nomadiff.guidance.guided import Guided, evaluations_of
from nomadiff.guidance.shared_encoder import SharedEncoder
from nomadiff.sampling.sampler import SamplerConfig

if TYPE_CHECKING:
    from nomadiff.models.model import Model

__all__ = ["OperationCounter", "SamplingCost", "sampling_cost"]


@dataclass(frozen=True)
class SamplingCost:
    """The cost of one image.

    Attributes:
        nfe: network evaluations, as the papers count them: two a step for two networks, the part that runs twice for a
            shared encoder.
        gflop: operations in 10^9; a multiplication and an addition are two.
        parameters: values in memory, what is shared counted once.
    """

    nfe: float
    gflop: float
    parameters: int


def sampling_cost(model: Model, sampler: SamplerConfig | None = None) -> SamplingCost:
    """Count the cost of one image: calls at equal cost are run once, on one image, under torch's operation counter.

    Args:
        model: any model.
        sampler: solver and steps; None takes the model's own.
    """
    denoiser = model.sampling_denoiser()
    if model.known.classes:
        denoiser = BoundDenoiser(denoiser, class_label=0)
    x = torch.zeros(1, *model.shape, device=model.device)
    nfe, total = 0.0, 0
    operations: dict[Any, int] = {}
    for sigma in (sampler or model.known.sampler).called_levels():
        nfe += evaluations_of(denoiser, sigma)
        state = _state(denoiser, sigma)
        if state not in operations:
            # attention is known by its matrix products, not by every fused kernel
            with OperationCounter() as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                denoiser(x, torch.tensor([sigma], device=x.device))
            operations[state] = counted.total
        total += operations[state]
    return SamplingCost(nfe, total / 1e9, _parameters(model.denoiser))


def _parameters(denoiser: Any) -> int:
    """Values of all networks within a denoiser, each counted once."""
    while isinstance(denoiser, BoundDenoiser):
        denoiser = denoiser.denoiser
    if isinstance(denoiser, SharedEncoder):
        return _parameters(denoiser.base) + denoiser.own_parameters
    if isinstance(denoiser, torch.nn.Module):
        return sum(parameter.numel() for parameter in denoiser.parameters())
    if not isinstance(denoiser, Guided):
        return 0
    parts = (denoiser.base, *(getattr(denoiser, name, None) for name in ("auxiliary", "discriminator", "classifier")))
    return sum(_parameters(part) for part in parts)


class OperationCounter(TorchDispatchMode):
    """Counts operations while it is entered, as torch's FlopCounterMode does.

    That one cannot follow a gradient taken inside (it tracks modules).

    Attributes:
        total: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _state(denoiser: Any, sigma: float) -> Any:
    """Which guidances within a denoiser act at a noise level: calls with equal states cost the same."""
    if isinstance(denoiser, BoundDenoiser):
        return _state(denoiser.denoiser, sigma)
    if not isinstance(denoiser, Guided):
        return None
    parts = (denoiser.base, getattr(denoiser, "auxiliary", None))
    return denoiser.is_active(sigma), *(_state(part, sigma) for part in parts)
