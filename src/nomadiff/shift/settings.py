"""The settings of ``shift``, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nomadiff.errors import UsageError
from nomadiff.improve.settings import Improvement

__all__ = ["Shift", "parse_targets"]

_LEAST = 40  # samples a weight: below, there is no interval


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How a model's composition is shifted. In Python the target is a mapping, ``{"3": 0.3, "0,1,2": 0.6}``.

    Attributes:
        target: Share to reach of a class of the classifier, or of several together: 3=0.3 or 0,1,2=0.6. What is left is
            for all other classes together.
        synthetic_count: Size of the set to fine-tune on; the default is as many as the base had real images. The paper
            takes twice as many.
        budget: Images of fine-tuning, such as 5Mi; the default is a fifth of the base's budget, a twentieth for EDM2
            and ADM. The paper takes a quarter.
        learning_rate: Learning rate of the fine-tuning; the default is the base's at the end of its training.
        weights: Guidance weights to try. Weight 0, the base, is always scored beside them; at -1 the copy itself is
            drawn, which shows how much of the complementary composition it has learned.
        count: Samples at every weight.
        seed: Seed of own samples, fine-tuning and scoring.
    """

    target: Mapping[str, float]
    synthetic_count: int | None = None
    budget: int | None = None
    learning_rate: float | None = None
    weights: tuple[float, ...] = (-1.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    count: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < _LEAST:
            raise UsageError(f"count must be at least {_LEAST}, got {self.count}")
        if not all(math.isfinite(weight) for weight in self.weights) or not any(w > 0 for w in self.weights):
            raise UsageError("weights must be finite numbers, and one at least above 0: those move toward the target")
        _ = self.fine_tuning  # validates the other settings

    @property
    def fine_tuning(self) -> Improvement:
        """The same as settings of the copy."""
        return Improvement(
            weight=1.0,
            snapshots=1,
            synthetic_count=self.synthetic_count,
            budget=self.budget,
            learning_rate=self.learning_rate,
            count=self.count,
            seed=self.seed,
        )


def parse_targets(texts: Sequence[str]) -> dict[str, float]:
    """Read ``3=0.3`` or ``0,1,2=0.6``, one text a group.

    Raises:
        UsageError: none, a text of another form, or a group named twice.
    """
    targets: dict[str, float] = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name or math.isnan(value):
            raise UsageError(f"'{text}' is no target: write a class, or several, and a share, such as 0,1,2=0.6")
        if name in targets:
            raise UsageError(f"target '{name}' is given twice")
        targets[name] = value
    return targets
