"""Choosing guidance weight and budget: a search on held-out noise, then a comparison with the base on fresh noise."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.improve.confirmation import Confirmation, Gain, Pair, Read, check_halves, confirmed_gain, halves
from nomadiff.improve.settings import Improvement
from nomadiff.memory import gathered
from nomadiff.metrics.distance_names import FDR, distance_name
from nomadiff.metrics.manifold import check_count
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.cost import sampling_cost
from nomadiff.models.model import Model
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["Chooser", "check_scores", "higher_is_better", "score_model"]

_SEARCH, _CONFIRMATION = 4, 5  # keep their noise apart from that of own samples and fine-tuning
_DIGITS = 3  # of a weight: smaller differences have no measurable effect, and equal weights are scored once

Make = Callable[[int, float], Model]


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; distances, replication and the like are better small."""
    return metric.startswith(("precision", "recall", "density", "coverage"))


def check_scores(improvement: Improvement, reference: ReferenceSet) -> None:
    """Find out before anything is drawn or trained whether candidates can be scored as asked.

    Raises:
        UsageError: too few samples, a reference that cannot be halved, or a metric that it does not give.
    """
    check_count(improvement.count, reference.k, "count")
    check_halves(reference)
    if improvement.metric is None or reference.images is None or reference.features is None:
        return
    few = slice(reference.k + 1)  # of the reference itself: no image passes through the detector again
    classes = None if reference.classes is None else reference.classes[few]
    given = [*_metrics(reference.evaluate(reference.images[few], read=(reference.features[few], classes)))]
    if FDR not in given:  # so few do not have it
        given.insert(1, FDR)
    if improvement.metric not in given:
        raise UsageError(f"no metric '{improvement.metric}': this reference gives {', '.join(given)}")


class Chooser:
    """Scores candidates, remembers every score, and so goes on where an interrupted choice was.

    All candidates are drawn from the same noise, so their differences are not due to the noise. The final comparison
    uses noise and reference images that no candidate was chosen by: the best of many is biased on what chose it.

    Args:
        improvement: what to try; ``seed`` keeps the noise apart from that of the own samples.
        reference: what to score against, best held out from training: one half to choose by, the other to confirm on.
        make: makes the candidate of a budget and a weight; weight 0 is the base.
        table: where scores are kept, one row each.
        save: called after every new row.
        processes: who shares the sampling.

    Raises:
        UsageError: the reference cannot be halved, or the metric is not among its own (found at the first score).
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
        self.space = improvement.space
        self.metric = improvement.metric or distance_name(reference.detector)
        self.higher = higher_is_better(self.metric)
        self.halves = dict(zip(("search", "fresh"), halves(reference)))
        self._confirmation: Confirmation | None = None
        self._read: dict[tuple[int, float, int], Read] = {}  # what was read of the sets of fresh noise
        self.table.meta["evaluation"] = {"count": improvement.count, **reference.meta}

    def of(self, space: str, model: Model) -> Chooser:
        """The same comparison with the base for another model in the candidates' place, named ``space`` in the table.

        What is known of the base is used again.
        """
        other, make = copy.copy(self), self.make
        other.space = space
        other.make = lambda budget, weight: model if weight else make(0, 0.0)
        return other

    def search(self, budgets: Sequence[int]) -> tuple[int, float]:
        """The best budget and weight above 0 on the search noise.

        For each budget the weight is found by Brent's bounded method, as the score is unimodal in it (SIMS Figure 4,
        Neon); a weight given in the improvement is taken as it is.
        """
        self.search_base()
        _, budget, weight = min(self.search_weight(budget) for budget in budgets)
        return budget, weight

    def search_base(self) -> None:
        """Score the base on the search noise."""
        self.score(0, 0.0, self._search_seed, "search")

    def search_weight(self, budget: int) -> tuple[float, int, float]:
        """The best weight of one budget: its score, of which less is better, the budget and the weight."""
        from scipy.optimize import minimize_scalar

        found: list[tuple[float, int, float]] = []

        def loss(weight: float) -> float:
            weight = round(float(weight), _DIGITS)
            value = self.score(budget, weight, self._search_seed, "search")[self.metric]
            found.append((-value if self.higher else value, budget, weight))
            return found[-1][0]

        if self.improvement.weight is not None:
            loss(self.improvement.weight)
        else:
            limit = self.improvement.weight_limit
            # scipy counts its first point as an evaluation, and stops when it knows the weight to a fortieth
            options = {"maxiter": self.improvement.evaluations, "xatol": limit / 40}
            minimize_scalar(loss, bounds=(0.0, limit), method="bounded", options=options)
        return min(found)

    def confirm(self, budget: int, weight: float) -> Gain:
        """Compare a candidate with the base on sets of fresh noise."""
        for index in range(self._sets):
            self.fresh_base(index)
        pairs = [self.fresh_pair(budget, weight, index) for index in range(self._sets)]
        half = self.halves["fresh"].meta["reference_count"]
        truths = max(1.0, half / self.improvement.count) / self._sets
        return confirmed_gain(pairs, truths=truths, higher=self.higher)

    def fresh_base(self, index: int) -> dict[str, Any]:
        """Score the base on one set of fresh noise."""
        return self.score(0, 0.0, self._fresh_seeds[index], "fresh")

    def fresh_pair(self, budget: int, weight: float, index: int) -> Pair:
        """Compare a candidate with the base on one set of fresh noise."""
        seeds = self._fresh_seeds
        rows = self.fresh_base(index), self.score(budget, weight, seeds[index], "fresh")
        pair = self.pair(budget, weight, seeds, index, (rows[0][self.metric], rows[1][self.metric]))
        self._read.pop((budget, weight, seeds[index]), None)
        return pair

    def read_of_base(self, index: int) -> Read:
        """What was read of the base's samples on one set of fresh noise."""
        return self._features(0, 0.0, self._fresh_seeds[index])

    def know_base(self, index: int, read: Read) -> None:
        """Take over what another process has read of the base's samples."""
        self._read[0, 0.0, self._fresh_seeds[index]] = read

    @property
    def _search_seed(self) -> int:
        return mixed_seed(self.improvement.seed, _SEARCH) % (1 << 31)

    @property
    def _fresh_seeds(self) -> list[int]:
        return [mixed_seed(self.improvement.seed, _CONFIRMATION, i) % (1 << 31) for i in range(self._sets)]

    @property
    def _sets(self) -> int:
        return self.improvement.confirmations

    def pair(self, budget: int, weight: float, seeds: Sequence[int], index: int, scores: tuple[float, float]) -> Pair:
        """What is known of one pair of sets beside its scores: computed or remembered."""
        known = self.table.meta.setdefault("confirmation", [])
        key = {
            "space": self.space,
            "weight": weight,
            "budget": budget,
            "metric": self.metric,
            "seed": seeds[index],
            "sets": len(seeds),
        }
        for found in known:
            if all(found[name] == value for name, value in key.items()):
                truth = found["as_truth"]
                return Pair(scores, tuple(found["without"]), None if truth is None else tuple(truth))
        if self._confirmation is None:
            bases = [self._features(0, 0.0, seed) for seed in seeds]
            self._confirmation = Confirmation(self.halves["fresh"], self.metric, bases)
        pair = self._confirmation.pair(index, scores, self._features(budget, weight, seeds[index]))
        known.append({**key, "without": pair.without, "as_truth": pair.as_truth})
        self.save()
        return pair

    def _features(self, budget: int, weight: float, seed: int) -> Read:
        """What the detector read of a set of fresh noise; drawn again where the score was remembered."""
        key = budget, weight, seed
        if key not in self._read:
            self._read[key] = self.reference.read(self.draw(budget, weight, seed)[0])
        return self._read[key]

    def score(self, budget: int, weight: float, seed: int, noise: str) -> dict[str, Any]:
        """One row of the table: drawn and scored, or remembered."""
        space = self.space if weight else self.improvement.space  # the base is the same for all
        key = {"space": space, "weight": weight, "budget": budget, "seed": seed, "noise": noise}
        for row in self.table.rows:
            if all(row[name] == value for name, value in key.items()):
                return row
        images, cost = self.draw(budget, weight, seed)
        read = self.reference.read(images)
        if noise == "fresh":
            self._read[budget, weight, seed] = read
        scores = _metrics(self.halves[noise].evaluate(images, read=read))
        if self.metric not in scores:
            raise UsageError(f"no metric '{self.metric}': this reference gives {', '.join(scores)}")
        row = {**key, **scores, **cost}
        self._save_row(row)
        return row

    def draw(self, budget: int, weight: float, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """A set of samples of a candidate, and what it cost."""
        return _drawn(self.make(budget, weight), self.improvement.count, seed, processes=self.processes)

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
        here and now), ``mparams`` (10^6 parameters in memory) and ``drawn_in`` ("fp32", "bf16" or "fp16").
    """
    images, cost = _drawn(model, count, seed, sampler, processes)
    return {**_metrics(reference.evaluate(images)), **cost}


def _metrics(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name not in ("composition", "meta")}


def _drawn(
    model: Model, count: int, seed: int, sampler: SamplerConfig | None = None, processes: Processes | None = None
) -> tuple[Tensor, dict[str, Any]]:
    started = time.perf_counter()

    def batches() -> Iterator[Tensor]:
        with progress_bar("samples to score", count, show=processes is None or processes.is_main) as advance:
            for batch in model.sample_batches(count, seed, sampler=sampler, processes=processes):
                yield batch
                advance(len(batch))

    images = gathered(batches(), count)
    seconds = (time.perf_counter() - started) / count
    cost = sampling_cost(model, sampler)
    return images, {
        "nfe": model.nfe(sampler),
        "gflop": round(cost.gflop, 4),
        "mparams": round(cost.parameters / 1e6, 4),
        "seconds_per_image": float(f"{seconds:.4g}"),
        "drawn_in": model.drawing_precision("auto"),
    }
