"""Choosing guidance weight and budget: a search on held-out noise, then a comparison with the base on fresh noise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nomadiff.errors import UsageError
from nomadiff.improve.settings import Improvement
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.cost import sampling_cost
from nomadiff.models.model import Model
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["Chooser", "Gain", "higher_is_better", "paired_gain", "score_model"]

_SEARCH, _CONFIRMATION = 4, 5  # keep their noise apart from that of own samples and fine-tuning
_DIGITS = 3  # of a weight: smaller differences have no measurable effect, and equal weights are scored once

Make = Callable[[int, float], Model]


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; distances, replication and the like are better small."""
    return metric.startswith(("precision", "recall", "density", "coverage"))


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another, relative to the other, on noise neither was chosen by.

    Attributes:
        mean: mean of the relative gain over sets of fresh noise; above 0 is better.
        low, high: 95 % confidence interval of the mean (Student's t over the sets, which are paired by their noise).
    """

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out "no gain"."""
        return self.low > 0


def paired_gain(base: Sequence[float], other: Sequence[float], *, higher: bool = False, level: float = 0.95) -> Gain:
    """Relative gain of ``other`` over ``base``, one value for each set of noise, at least two.

    Args:
        base, other: a metric of the two models, in the same order of sets.
        higher: whether more of the metric is better.
        level: of the confidence interval.
    """
    from scipy.stats import t

    gains = [(b - a if higher else a - b) / abs(a) if a else 0.0 for a, b in zip(base, other)]
    mean = sum(gains) / len(gains)
    variance = sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
    width = float(t.ppf((1 + level) / 2, len(gains) - 1)) * math.sqrt(variance / len(gains))
    return Gain(mean, mean - width, mean + width)


class Chooser:
    """Scores candidates, remembers every score, and so goes on where an interrupted choice was.

    All candidates are drawn from the same noise, so their differences are not due to the noise. The final comparison
    uses noise that no candidate was chosen by, since the best of many is biased on the noise it was chosen on.

    Args:
        improvement: what to try; ``seed`` keeps the noise apart from that of the own samples.
        reference: what to score against, best held out from training.
        make: makes the candidate of a budget and a weight; weight 0 is the base.
        table: where scores are kept, one row each.
        save: called after every new row.
        processes: who shares the sampling.

    Raises:
        UsageError: the metric is not among those of the reference (found at the first score).
    """

    def __init__(
        self,
        improvement: Improvement,
        reference: ReferenceSet,
        make: Make,
        table: Table,
        save: Callable[[], None],
        processes: Processes,
    ) -> None:
        self.improvement, self.reference, self.make = improvement, reference, make
        self.table, self.save, self.processes = table, save, processes
        self.metric = improvement.metric or distance_name(reference.detector)
        self.higher = higher_is_better(self.metric)
        self.table.meta["evaluation"] = {"count": improvement.count, **reference.meta}

    def search(self, budgets: Sequence[int]) -> tuple[int, float]:
        """The best budget and weight above 0 on the search noise.

        For each budget the weight is found by Brent's bounded method, as the score is unimodal in it (SIMS Figure 4,
        Neon); a weight given in the improvement is taken as it is.
        """
        from scipy.optimize import minimize_scalar

        seed = mixed_seed(self.improvement.seed, _SEARCH) % (1 << 31)
        self.score(0, 0.0, seed, "search")
        found: list[tuple[float, int, float]] = []
        for budget in budgets:

            def loss(weight: float, budget: int = budget) -> float:
                weight = round(float(weight), _DIGITS)
                value = self.score(budget, weight, seed, "search")[self.metric]
                found.append((-value if self.higher else value, budget, weight))
                return found[-1][0]

            if self.improvement.weight is not None:
                loss(self.improvement.weight)
                continue
            limit = self.improvement.weight_limit
            # scipy counts its first point as an evaluation, and stops when it knows the weight to a fortieth
            options = {"maxiter": self.improvement.evaluations, "xatol": limit / 40}
            minimize_scalar(loss, bounds=(0.0, limit), method="bounded", options=options)
        _, budget, weight = min(found)
        return budget, weight

    def confirm(self, budget: int, weight: float) -> Gain:
        """Compare a candidate with the base on sets of fresh noise."""
        pairs = []
        for index in range(self.improvement.confirmations):
            seed = mixed_seed(self.improvement.seed, _CONFIRMATION, index) % (1 << 31)
            rows = [self.score(0, 0.0, seed, "fresh"), self.score(budget, weight, seed, "fresh")]
            pairs.append([row[self.metric] for row in rows])
        return paired_gain(*zip(*pairs), higher=self.higher)

    def score(self, budget: int, weight: float, seed: int, noise: str) -> dict[str, Any]:
        """One row of the table: drawn and scored, or remembered."""
        key = {"space": self.improvement.space, "weight": weight, "budget": budget, "seed": seed, "noise": noise}
        for row in self.table.rows:
            if all(row[name] == value for name, value in key.items()):
                return row
        scores = score_model(
            self.make(budget, weight), self.reference, self.improvement.count, seed, processes=self.processes
        )
        if self.metric not in scores:
            raise UsageError(f"no metric '{self.metric}': this reference gives {', '.join(scores)}")
        row = {**key, **scores}
        self._save_row(row)
        return row

    def _save_row(self, row: dict[str, Any]) -> None:
        self.table.rows.append(row)
        self.save()


def score_model(
    model: Model,
    reference: ReferenceSet,
    count: int,
    seed: int,
    *,
    sampler: SamplerConfig | None = None,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Draw a set and score it.

    Args:
        model: any model.
        reference: what to score against.
        count: samples.
        seed: their seed.
        sampler: solver and steps; None takes the model's.
        processes: who shares the sampling.

    Returns:
        The reference's metrics, and what it cost: of an image ``nfe``, ``gflop`` and ``seconds_per_image`` (wall clock,
        here and now), and ``mparams`` (10^6 parameters in memory).
    """
    started = time.perf_counter()
    images = torch.cat(list(model.sample_batches(count, seed, sampler=sampler, processes=processes)))
    seconds = (time.perf_counter() - started) / count
    scores = reference.evaluate(images)
    scores.pop("composition")
    scores.pop("meta")
    cost = sampling_cost(model, sampler)
    return {
        **scores,
        "nfe": model.nfe(sampler),
        "gflop": round(cost.gflop, 4),
        "mparams": round(cost.parameters / 1e6, 4),
        "seconds_per_image": float(f"{seconds:.4g}"),
    }
