"""What a training measures between two lines of its log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nomadiff.processes import Processes

__all__ = ["Meter"]


@dataclass
class Meter:
    """Running sums, kept on the device so that no step waits for a number.

    Attributes:
        loss, count: of every source in every band of noise levels: ``(sources, bands)``.
        nonfinite: losses that are no numbers, ``(1,)``.
        edges: noise levels between the bands, ascending ``(bands - 1,)``; None for a single band, which costs nothing.
        started: when, in seconds of ``time.perf_counter``.
        images: how many, over all processes.
    """

    loss: Tensor
    count: Tensor
    nonfinite: Tensor
    edges: Tensor | None
    started: float = field(default_factory=time.perf_counter)
    images: int = 0

    @classmethod
    def fresh(cls, sources: int, device: torch.device, edges: Sequence[float] = ()) -> Meter:
        """All zero."""
        loss, count = (torch.zeros(sources, len(edges) + 1, device=device) for _ in range(2))
        return cls(
            loss, count, torch.zeros(1, device=device), torch.tensor(edges, device=device) if len(edges) else None
        )

    def add(self, per_image: Tensor, source: Tensor, sigma: Tensor) -> None:
        """Take in the loss of every image of a batch: ``(B,)`` each."""
        finite = torch.isfinite(per_image)
        if self.edges is not None:
            source = source * self.loss.shape[1] + torch.bucketize(sigma, self.edges)
        self.loss.view(-1).index_add_(0, source, torch.where(finite, per_image, 0.0))
        self.count.view(-1).index_add_(0, source, finite.to(self.count))
        self.nonfinite += (~finite).sum()

    def mean(self) -> float:
        """The mean loss so far, of this process."""
        return float(self.loss.sum() / self.count.sum())

    def totals(self, processes: Processes) -> Meter:
        """The sums over all processes, on every process."""
        loss, count, nonfinite = (processes.total(value) for value in (self.loss, self.count, self.nonfinite))
        return Meter(loss, count, nonfinite, self.edges, self.started, self.images)

    def losses(self, names: Sequence[str]) -> dict[str, Any]:
        """Fields of a line of the log: the mean loss, of each source where there are several, and of each band."""
        fields: dict[str, Any] = {"loss": self.mean()}
        for name, total, images in zip(names, self.loss.sum(1).tolist(), self.count.sum(1).tolist()):
            if images and len(names) > 1:
                fields[f"loss_{name}"] = total / images
        if self.edges is not None:
            fields["loss_by_noise"] = {
                name: [total / images if images else None for total, images in zip(*row)]
                for name, *row in zip(names, self.loss.tolist(), self.count.tolist())
            }
        return fields
