"""Power-function moving averages of the weights, and any other average made of their snapshots after training.

Karras et al. 2024, section 3 and appendix C. An average of relative width ``std`` weighs the weights at time t by t to
a power, so that its width grows with the length of the training: ``std`` 0.10 averages over about the last 10 %. A few
averages stored during training span, by least squares, every other width: nothing is trained twice to find the best.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nomadiff.errors import UsageError

__all__ = ["PowerEMA", "combine", "exponent_of_std", "post_hoc_factors", "std_of_exponent"]


M = TypeVar("M", bound=nn.Module)


def std_of_exponent(exponent: float) -> float:
    """Relative width of the average with exponent ``gamma`` (eq. 123): ``sqrt((g + 1) / (g + 3)) / (g + 2)``."""
    return float(np.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2))


def exponent_of_std(std: float) -> float:
    """The exponent of the average with relative width ``std``: the inverse of :func:`std_of_exponent` (eq. 126).

    Raises:
        UsageError: ``std`` is not between 0 and 0.288 (the width of an even average of all weights, exponent 0).
    """
    if not 0 < std < 0.288:
        raise UsageError(f"the relative width of a power-function average must lie between 0 and 0.288, got {std}")
    # the largest root of (g + 1) = std^2 (g + 2)^2 (g + 3)
    return float(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max())


class PowerEMA(Generic[M]):
    """Power-function averages of a module's weights, one for each width.

    After a step that ends at t images seen, each average takes in the weights with ``1 - beta``, where ``beta = (1 -
    batch / t) ** (exponent + 1)`` (eq. 127). The first step copies the weights: what came before counts nothing.

    Args:
        module: the module to follow; it is copied once for each width, and its parameters are read at every update.
        stds: relative widths.

    Attributes:
        modules: the averages, in the order of ``stds``.
        module: the last of them, the one to sample from.
    """

    def __init__(self, module: M, stds: Sequence[float] = (0.05, 0.10)) -> None:
        self.stds = tuple(stds)
        self.modules = tuple(copy.deepcopy(module).eval().requires_grad_(False) for _ in self.stds)
        self.module: M = self.modules[-1]
        self._exponents = [exponent_of_std(std) for std in self.stds]
        self._averages: list[list[Tensor]] = [list(average.parameters()) for average in self.modules]
        self._weights: list[Tensor] = list(module.parameters())
        self._buffers = [pair for average in self.modules for pair in zip(average.buffers(), module.buffers())]

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Take in the weights after a step of ``batch`` images; ``images_seen`` counts those before the step."""
        for averages, exponent in zip(self._averages, self._exponents):
            beta = (1 - batch / (images_seen + batch)) ** (exponent + 1)
            torch._foreach_lerp_(averages, self._weights, 1 - beta)
        for kept, current in self._buffers:
            kept.copy_(current)


def post_hoc_factors(times: Sequence[float], stds: Sequence[float], time: float, std: float) -> np.ndarray:
    """How to add up stored averages to get one of width ``std`` that ends at ``time`` (section 3.1, algorithm 3).

    Args:
        times: images seen at each stored average.
        stds: relative width of each stored average.
        time: images seen at the end of the wanted average; usually the last of ``times``.
        std: wanted relative width.

    Returns:
        float64 ``(len(times),)``, summing to 1: the factor of each stored average, see :func:`combine`.

    Raises:
        UsageError: there is nothing stored, an average is stored twice, a time is not positive, or a width is out of
            range.
    """
    if not times or len(times) != len(stds):
        raise UsageError(f"need one width for each stored average, got {len(times)} averages and {len(stds)} widths")
    if min(*times, time) <= 0:
        raise UsageError("stored and wanted averages must end after at least one image")
    if len(set(zip(times, stds))) < len(times):
        raise UsageError("the same average (images seen and width) is given twice")
    ends = np.asarray(times, dtype=np.float64)
    exponents = np.array([exponent_of_std(stored) for stored in stds])
    matrix = _inner_products(ends[:, None], exponents[:, None], ends[None, :], exponents[None, :])
    target = _inner_products(ends, exponents, np.asarray(float(time)), np.asarray(exponent_of_std(std)))
    factors = np.linalg.solve(matrix, target)
    return factors / factors.sum()


def combine(states: Iterable[Mapping[str, Tensor]], factors: Sequence[float] | np.ndarray) -> dict[str, Tensor]:
    """The sum of weights times factors, tensor by tensor; states are read one after the other.

    Args:
        states: state dicts of one network, of any floating dtype.
        factors: as many factors, from :func:`post_hoc_factors`.

    Returns:
        A state dict in float32; tensors that are not floating-point are those of the last state.
    """
    total: dict[str, Tensor] = {}
    for state, factor in zip(states, factors, strict=True):
        for name, value in state.items():
            if not value.is_floating_point():
                total[name] = value
            elif name in total:
                total[name].add_(value.float(), alpha=float(factor))
            else:
                total[name] = value.float() * float(factor)
    return total


def _inner_products(
    time_a: np.ndarray, exponent_a: np.ndarray, time_b: np.ndarray, exponent_b: np.ndarray
) -> np.ndarray:
    """Integral of the product of two averaging profiles ``p(t) = (g + 1) t^g / T^(g + 1)`` on [0, T] (eq. 150).

    Written with the ratio of the two end times, at most 1, so that large exponents cannot overflow.
    """
    later_exponent = np.where(time_a > time_b, exponent_a, exponent_b)
    ratio = np.minimum(time_a / time_b, time_b / time_a)
    scale = (exponent_a + 1) * (exponent_b + 1) / ((exponent_a + exponent_b + 1) * np.maximum(time_a, time_b))
    return scale * ratio**later_exponent
