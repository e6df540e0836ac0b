"""The settings of ``improve``, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.guidance.strength import Interval, check_guidance
from nomadiff.models.train_parts import TRAIN_PARTS

__all__ = ["SPACES", "Improvement"]

SPACES = {"function": ("extrapolation", "sims"), "parameters": ("merge", "neon")}
"""Spaces of extrapolation: for each the kind of guidance and the method's name."""


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """How a model is improved by its own samples (SIMS Algorithm 1; Neon).

    Attributes:
        synthetic_count: Own samples to fine-tune on; the default is as many as the base had real images.
        budget: Images of fine-tuning, such as 5Mi; the default is a fifth of the base's budget,
            a twentieth for networks of ImageNet's kind (EDM2, ADM): what SIMS took.
        snapshots: Budgets to choose from: as many, evenly spaced up to --budget.
        learning_rate: Learning rate of the fine-tuning; the default is the base's at the end of its training.
        warmup: Images over which it rises from 0. EDM's --transfer silently takes 10 Mi, which most fine-tunings never
            leave; here it is 0 unless you say so.
        ema_half_life: Half-life of the moving average in images; the default is the base's.
        keep_ema: Start the average at the base and let it forget at the full half-life, as EDM's --transfer does. By
            default it forgets the base as quickly as in a fresh run, so that a budget means what it says.
        train_part: all, or decoder: only the end of the decoder, so that a guided step costs at most 1.5.
        space: function (SIMS: two networks) or parameters (Neon: one merged network).
        weight: Guidance weight; auto, the default, searches it and needs --reference.
        interval: Noise levels sigma at which the auxiliary is called, lowest:highest, such as 0.1:20; the default is
            all.
        metric: Metric to choose by; the default is the Frechet distance of the detector.
        weight_limit: The search covers weights from 0 to this.
        evaluations: Weights tried for each budget.
        count: Samples of every model that is scored.
        confirmations: Sets of fresh noise on which the chosen model is compared with the base.
        repeats: Copies to try, each with own samples, fine-tuning and choice (in repeat-2, repeat-3, ...), so that
            the interval knows how one copy differs from another. The model that comes out has the first.
        distil: Teach one network what the improved model computes, on its own samples, for as many images as the
            fine-tuning saw: the gain, or some of it, at the base's cost. It lies in distilled/ and is scored too.
        keep_synthetic: Keep the own samples as own.zip; they are dropped after the fine-tuning otherwise.
        seed: Seed of own samples, fine-tuning and scoring.
    """

    synthetic_count: int | None = None
    budget: int | None = None
    snapshots: int = 4
    learning_rate: float | None = None
    warmup: int = 0
    ema_half_life: int | None = None
    keep_ema: bool = False
    train_part: str = "all"
    space: str = "function"
    weight: float | None = None
    interval: Interval | None = None
    metric: str | None = None
    weight_limit: float = 2.0
    evaluations: int = 8
    count: int = 1000
    confirmations: int = 8
    repeats: int = 1
    distil: bool = False
    keep_synthetic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("synthetic_count", "budget", "snapshots", "evaluations", "count", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.confirmations < 2:
            raise UsageError(f"confirmations must be at least 2 to know their spread, got {self.confirmations}")
        for name, value, known in (("train_part", self.train_part, TRAIN_PARTS), ("space", self.space, SPACES)):
            if value not in known:
                raise UsageError(f"unknown {name} '{value}': choose one of {', '.join(known)}")
        if self.space == "parameters" and self.interval is not None:
            raise UsageError("merged weights act at every noise level: an interval needs --space function")
        if self.space == "parameters" and self.distil:
            raise UsageError("merged weights are one network already: --distil needs --space function")
        check_guidance(1.0 if self.weight is None else self.weight, self.interval)
        if self.weight == 0:
            raise UsageError("weight must be another number than 0, which is the base")
        check_guidance(self.weight_limit, None)
        if not self.weight_limit > 0 or self.warmup < 0 or self.seed < 0:
            raise UsageError("weight_limit must be positive; warmup and seed must not be negative")

    def of_auxiliary(self) -> dict[str, Any]:
        """The settings that the auxiliary depends on: the others can be changed on a finished one."""
        names = (
            *("synthetic_count", "budget", "snapshots", "learning_rate", "warmup", "ema_half_life", "keep_ema"),
            *("train_part", "seed"),
        )
        return {name: value for name, value in asdict(self).items() if name in names}
