"""Is a gain more than chance? What its interval must know: noise, the reference, and the number of samples.

Three things make a candidate look better than its base where it is not:

* It was *chosen* by its score. So one half of the reference chooses and the other confirms, on fresh noise
  (:func:`halves`).
* Other reference images would have given another score. So the interval knows the noise (sets of samples, paired) and
  the reference (delete-a-group jackknife): :func:`confirmed_gain`.
* Scores of few samples are biased, and not equally: narrower samples have a smaller Frechet distance even to their own
  base. So the candidate is scored once more with *samples of the base* in the reference's place. What it gains there,
  where the base is the truth, is no gain; a claim needs a gain that exceeds it.

``benchmarks/intervals.py`` shows how often a gain is claimed where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.frechet import Statistics, frechet_distance
from nomadiff.metrics.intervals import GROUPS, groups_of
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.splits import draws

__all__ = [
    "Confirmation",
    "Gain",
    "Pair",
    "Read",
    "check_halves",
    "confirmed_gain",
    "halves",
    "paired_gain",
    "repeated_gain",
]

_LEAST = 40  # reference images: twenty to choose by and as many to confirm on

Read = tuple[Tensor, Tensor | None]
"""What a reference reads of images: features, and classes where it has a classifier."""


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another, relative to the other, on noise neither was chosen by.

    Attributes:
        mean: mean of the relative gain over sets of fresh noise; above 0 is better.
        low, high: 95 % confidence interval of the mean.
        chance: what it would gain, relative to the same score, if the other one were the truth; None if not known.
        excess_low: lower end of the interval of what the gain exceeds ``chance`` by; None with it.
    """

    mean: float
    low: float
    high: float
    chance: float | None = None
    excess_low: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out "no gain", and the gain exceeds what it would be by chance."""
        return self.low > 0 and (self.excess_low is None or self.excess_low > 0)


@dataclass(frozen=True)
class Pair:
    """A metric of base and candidate, drawn from the same noise.

    Attributes:
        scores: base and candidate.
        without: likewise, without each group of the reference in turn: two lists; empty where the metric does not
            depend on the reference.
        as_truth: likewise, where samples of the base take the place of the reference; None as above.
    """

    scores: tuple[float, float]
    without: tuple[Sequence[float], Sequence[float]] = ((), ())
    as_truth: tuple[float, float] | None = None


def paired_gain(base: Sequence[float], other: Sequence[float], *, higher: bool = False, level: float = 0.95) -> Gain:
    """Relative gain of ``other`` over ``base``, one value for each independent pair (a seed, say), at least two.

    Args:
        base, other: a metric of the two models, in the same order.
        higher: whether more of the metric is better.
        level: of the confidence interval (Student's t).
    """
    from scipy.special import stdtrit

    gains = _relative(np.array(base, float), np.array(other, float), higher)
    width = float(stdtrit(len(gains) - 1, (1 + level) / 2)) * math.sqrt(gains.var(ddof=1) / len(gains))
    mean = float(gains.mean())
    return Gain(mean, mean - width, mean + width)


def confirmed_gain(pairs: Sequence[Pair], *, truths: float = 0.0, higher: bool = False, level: float = 0.95) -> Gain:
    """Relative gain of a candidate over its base, with the noise's and the reference's chance in the interval.

    The variances add up; the degrees of freedom are Welch and Satterthwaite's.

    Args:
        pairs: one for each set of fresh noise, at least two.
        truths: how much the base as the truth varies, in units of the reference's variance: it is another draw of
            images, averaged over the pairs.
        higher: whether more of the metric is better.
        level: of the confidence interval.
    """
    base, other = np.array([pair.scores for pair in pairs]).T
    gains = _relative(base, other, higher)
    of_reference, groups = 0.0, 0
    if len(pairs[0].without[0]):
        without = np.array([pair.without for pair in pairs])
        moved = _relative(without[:, 0], without[:, 1], higher).mean(axis=0)
        groups = len(moved)
        of_reference = (groups - 1) * float(np.square(moved - moved.mean()).mean())
    mean = float(gains.mean())
    width = _width(gains, of_reference, groups, level)
    if any(pair.as_truth is None for pair in pairs):
        return Gain(mean, mean - width, mean + width)
    truth = np.array([pair.as_truth for pair in pairs])
    scale = np.where(base == 0, 1.0, np.abs(base))
    chance = _difference(truth[:, 0], truth[:, 1], higher) / scale
    beyond = float(np.mean(gains - chance))
    excess = beyond - _width(gains - chance, of_reference * (1 + truths), groups, level)
    return Gain(mean, mean - width, mean + width, float(chance.mean()), excess)


def repeated_gain(gains: Sequence[Gain], level: float = 0.95) -> Gain:
    """The gain over several copies of one base: how copies differ comes to what each interval knows.

    The reference is the same for all of them, so its chance does not average out: the mean width of the intervals is
    kept, and that of the mean over the copies (Student's t) is added to it as independent errors are.

    Args:
        gains: one for each copy, at least two.
        level: of the confidence interval.
    """
    from scipy.special import stdtrit

    means = np.array([gain.mean for gain in gains])
    between = float(stdtrit(len(means) - 1, (1 + level) / 2)) * float(means.std(ddof=1)) / math.sqrt(len(means))
    mean, within = float(means.mean()), float(np.mean([(gain.high - gain.low) / 2 for gain in gains]))
    width = math.hypot(within, between)
    chances = [gain.chance for gain in gains if gain.chance is not None]
    excesses = [gain.excess_low for gain in gains if gain.excess_low is not None]
    if len(chances) < len(gains):
        return Gain(mean, mean - width, mean + width)
    return Gain(mean, mean - width, mean + width, float(np.mean(chances)), float(np.mean(excesses)) - width + within)


def _difference(base: np.ndarray, other: np.ndarray, higher: bool) -> np.ndarray:
    return other - base if higher else base - other


def _relative(base: np.ndarray, other: np.ndarray, higher: bool) -> np.ndarray:
    return np.where(base == 0, 0.0, _difference(base, other, higher) / np.where(base == 0, 1.0, np.abs(base)))


def _width(values: np.ndarray, more: float, groups: int, level: float) -> float:
    """Half the interval of a mean of ``values``, to whose variance ``more``, known from ``groups``, is added."""
    from scipy.special import stdtrit

    own = float(values.var(ddof=1)) / len(values)
    total = own + more
    if total == 0:
        return 0.0
    freedom = total**2 / (own**2 / (len(values) - 1) + (more**2 / (groups - 1) if groups else 0.0))
    return float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)


def halves(reference: ReferenceSet) -> tuple[ReferenceSet, ReferenceSet]:
    """Two halves of a reference at random (files are often sorted), the same every time: to choose, to confirm.

    Raises:
        UsageError: as :func:`check_halves`.
    """
    count = check_halves(reference)
    if reference.subjects is not None:  # nobody is in both
        first, second = next(draws(count, subjects=reference.subjects))
    else:
        order = torch.from_numpy(np.random.default_rng(0).permutation(count))
        first, second = order[: count // 2], order[count // 2 :]
    return reference.subset(first, images=True), reference.subset(second, images=True)


def check_halves(reference: ReferenceSet) -> int:
    """The number of a reference's images, if they are enough for two halves.

    Raises:
        UsageError: it has fewer than 40 images, or holds statistics only.
    """
    count = 0 if reference.features is None else len(reference.features)
    if count < _LEAST:
        what = f"{count} images" if count else "statistics only"
        raise UsageError(
            f"one half of the reference chooses and the other confirms: it needs at least {_LEAST} images, this one "
            f"has {what}"
        )
    return count


class Confirmation:
    """Scores pairs of base and candidate by one metric, without each group of the reference and with the base as truth.

    Args:
        reference: the half that nothing was chosen by.
        metric: one of its metrics.
        bases: what the reference's ``read`` gave for every set of base samples.
    """

    def __init__(self, reference: ReferenceSet, metric: str, bases: Sequence[Read]) -> None:
        assert reference.features is not None
        self.reference, self.metric, self.bases = reference, metric, bases
        self.count = len(reference.features)
        several = self.count // 2 if reference.subjects is None else len(reference.subjects.unique())
        groups = min(GROUPS, several)
        member = groups_of(self.count, reference.subjects, groups)
        assert member is not None
        self._left_out = [reference.subset(member != group) for group in range(groups)]

    def pair(self, index: int, scores: tuple[float, float], other: Read) -> Pair:
        """One set of noise.

        Args:
            index: which of the sets of base samples.
            scores: base and candidate, by the whole half.
            other: what ``read`` gave for the candidate's samples of the same noise.
        """
        if self.reference.value(self.metric, *other) is None:
            return Pair(scores)
        base, candidate = self._scored(self.bases[index]), self._scored(other)
        without = [base(part) for part in self._left_out], [candidate(part) for part in self._left_out]
        truth = self._truth(index)
        return Pair(scores, without, (base(truth), candidate(truth)))

    def _truth(self, index: int) -> ReferenceSet:
        """As many samples of the base as the reference has images, from noise that this pair does not share."""
        others = [*self.bases[index + 1 :], *self.bases[:index]]
        classes = [classes for _, classes in others if classes is not None]
        features = torch.cat([features for features, _ in others])[: self.count]
        return self.reference.with_features(features, torch.cat(classes)[: self.count] if classes else None)

    def _scored(self, read: Read) -> Callable[[ReferenceSet], float]:
        """The metric of some samples, by any reference."""
        if self.metric == distance_name(self.reference.detector):
            statistics = Statistics.from_features(read[0])
            return lambda reference: frechet_distance(statistics, reference.statistics)

        def value(reference: ReferenceSet) -> float:
            found = reference.value(self.metric, *read)
            assert found is not None
            return found

        return value
