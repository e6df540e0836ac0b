"""Guidance by a label, from one network in one forward pass: source guidance and classifier-free guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nomadiff.denoiser import BoundDenoiser, EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.guided import Guided
from nomadiff.guidance.strength import Interval

__all__ = ["ClassifierFreeGuidance", "SourceGuidance"]


class _LabelGuidance(Guided):
    """``(1 + w) D(x, label) - w D(x, other label)``, both estimates from one forward pass of twice the batch."""

    def _both(self, denoiser: EDMDenoiser, x: Tensor, sigma: Tensor, first: dict, second: dict) -> Tensor:
        batch = len(x)
        level = sigma.expand(batch)
        twice = {name: _beside(first[name], second[name], batch) for name in first}
        wanted, other = denoiser(torch.cat([x, x]), torch.cat([level, level]), **twice).chunk(2)
        return wanted + self.weight * (wanted - other)

    def guided_evaluations(self, sigma: float) -> float:
        """Two: the network sees every sample twice."""
        return 2.0


class SourceGuidance(_LabelGuidance):
    """``(1 + w) D(x, source 0) - w D(x, source k)`` of one source-conditional network (CASD's), called without source.

    If source k holds the model's own samples this is SIMS with a single network: CASD's labels replace the
    auxiliary.

    Args:
        denoiser: a network that knows sources.
        weight: strength; 0 is the network with its source fixed to real, as CASD samples.
        source: label of the synthetic source to move away from.
        interval: noise levels at which it acts; None for all.

    Raises:
        UsageError: the network does not know the source.
    """

    def __init__(
        self, denoiser: EDMDenoiser, weight: float, *, source: int = 1, interval: Interval | None = None
    ) -> None:
        if not 1 <= source < denoiser.sources:
            known = f"it knows 1..{denoiser.sources - 1}" if denoiser.sources > 1 else "it knows none"
            raise UsageError(f"source guidance needs a synthetic source of the network, got {source}; {known}")
        super().__init__(BoundDenoiser(denoiser, source=0), weight, interval)
        self.denoiser = denoiser
        self.source = source

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The guided estimate of the real source."""
        real, other = {"source": 0, **condition}, {"source": self.source, **condition}
        return self._both(self.denoiser, x, sigma, real, other)


class ClassifierFreeGuidance(_LabelGuidance):
    """``(1 + w) D(x, class) - w D(x, no class)`` (Ho and Salimans 2022) of one class-conditional network.

    Args:
        denoiser: a network that knows classes and was trained with some labels hidden (``class_dropout``).
        weight: strength; 0 is the class-conditional network. The "scale" of other libraries is ``1 + weight``.
        interval: noise levels at which it acts; None for all.

    Raises:
        UsageError: the network does not know classes.
    """

    def __init__(self, denoiser: EDMDenoiser, weight: float, *, interval: Interval | None = None) -> None:
        if denoiser.classes < 1:
            raise UsageError("classifier-free guidance needs a class-conditional network; this one knows no classes")
        super().__init__(denoiser, weight, interval)
        self.denoiser = denoiser

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The guided estimate for ``class_label``, which the call must name.

        Raises:
            UsageError: it does not.
        """
        if condition.get("class_label") is None:
            raise UsageError("classifier-free guidance needs class_label=: the class to guide towards")
        return self._both(self.denoiser, x, sigma, condition, {**condition, "class_label": -1})


def _beside(first: Any, second: Any, batch: int) -> Any:
    """One condition for the doubled batch, on the host if both are; None stays None."""
    if first is None and second is None:
        return None
    parts = [torch.as_tensor(value) for value in (first, second)]
    device = max((part.device for part in parts), key=lambda device: device.type != "cpu")
    return torch.cat([part.to(device).expand(batch, *part.shape[1:]) for part in parts])
