"""How long and how fast a two-dimensional network is trained."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrainingPlan"]


@dataclass(frozen=True)
class TrainingPlan:
    """Adam over a number of epochs.

    Attributes:
        epochs: passes over the data.
        batch: points a step; at or above the size of the data every step is one full pass.
        rate: Adam's learning rate at the first step.
        final_rate: learning rate the last step would have, reached linearly; None keeps ``rate``.
        shuffled: visit the points in a new order every epoch (a full batch has no order).
    """

    epochs: int
    batch: int
    rate: float
    final_rate: float | None = None
    shuffled: bool = True

    def steps(self, count: int) -> int:
        """Optimiser steps of a training on ``count`` points."""
        return self.epochs * -(-count // self.batch)

    def slope(self, count: int) -> float:
        """Change of the learning rate from one step to the next."""
        if self.final_rate is None:
            return 0.0
        return (self.final_rate - self.rate) / max(1, self.steps(count) - 1)

    def orders(self, count: int) -> bool:
        """Whether the order of ``count`` points matters: they are shuffled and do not fit one batch."""
        return self.shuffled and count > self.batch
