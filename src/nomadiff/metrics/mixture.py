"""How much of a set comes from known synthetic sources: a classifier of sources, and the shares it implies.

A logistic regression on detector features learns to tell the sets apart; every image is scored by a model that was not
fitted on it (cross-validation). Two questions are answered from the scores:

* *Can they be told apart at all?* The area under the ROC curve, 0.5 for two sets of the same origin.
* *Which share of a set comes from a source?* With trusted real images beside it the mean score lies between that of
  trusted and of synthetic images, in proportion to the shares. Without them only an upper bound can be had: where the
  synthetic images are most typical, the set holds at most as many of them as it has images there (Scott 2015;
  Garg et al. 2021). The bound is tight where some synthetic images look like no real one, and loose for a source that
  looks real; any share below it is as likely as the bound itself.

One picture may be in several of the sets, saved again and again: in the folder and among a source's images, for one.
A model that has seen one of them has seen the other, and scores it too surely, which made shares too large. So all
copies of a picture are kept in one fold, and are scored by the model that saw none of them.
``benchmarks/audit.py`` counts how often the intervals hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.intervals import share_interval
from nomadiff.metrics.neighbours import as_points

__all__ = ["Separation", "Share", "bound_on_share", "is_separable", "separation", "shares_of_sources", "source_scores"]

Groups = Sequence[Tensor] | None

FOLDS = 5
CLEAR = 4.0  # standard errors between real and synthetic scores, below which a share would be a guess
FEWEST = 20  # images a side: below, five folds hold hardly anything


@dataclass(frozen=True)
class Separation:
    """How well two sets are told apart.

    Attributes:
        auc: probability that an image of the second set scores above one of the first, by models that saw neither;
            0.5 if they cannot be told apart.
        low, high: its interval.
    """

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """Estimated share of a set that comes from a source.

    Attributes:
        share: in [0, 1]; None without trusted images, when anything up to ``high`` would look the same.
        low, high: interval of the share; ``low`` is 0 without trusted images.
    """

    share: float | None
    low: float
    high: float

    @property
    def bound_only(self) -> bool:
        """Whether ``high`` is all that is known."""
        return self.share is None


def separation(
    first: Tensor, second: Tensor, *, level: float = 0.95, seed: int = 0, groups: Groups = None
) -> Separation:
    """Two-sample classifier test (Lopez-Paz & Oquab 2017) of two sets of features, by cross-validation.

    Args:
        first, second: float features ``(N, D)`` and ``(M, D)``, at least 20 each.
        level: of the interval (Hanley & McNeil 1982; of perfect order an exact one, which has a width).
        seed: of the folds.
        groups: int64 ``(N,)`` and ``(M,)``: images with one number are one picture; None if all differ.

    Raises:
        UsageError: too few features or pictures, different dimensions, or a value that is not finite.
    """
    a, b = (scores[:, 1] for scores in _scores([first, second], seed, groups=groups)[0])
    order = np.argsort(np.concatenate([a, b]), kind="stable")
    merged = np.concatenate([a, b])[order]
    # mean ranks of ties, so that an uninformative score gives exactly one half
    _, inverse, counts = np.unique(merged, return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    ranks = np.empty(len(merged))
    ranks[order] = mean_rank
    n, m = len(a), len(b)
    auc = float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))
    if auc in (0, 1):  # of as many pairs as there are, no image in two of them, all or none are in order
        return Separation(auc, *share_interval(auc, min(n, m), level))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (m - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (n * m)
    width = _quantile(level) * max(variance, 0.0) ** 0.5
    return Separation(auc, max(auc - width, 0.0), min(auc + width, 1.0))


def shares_of_sources(
    mixed: Tensor,
    sources: Mapping[str, Tensor],
    trusted: Tensor,
    *,
    level: float = 0.95,
    seed: int = 0,
    groups: Groups = None,
) -> dict[str, Share]:
    """Which share of ``mixed`` comes from each of several sources, all at once, the rest being real.

    The mean scores of the mixed set are the shares' weighted mean of those of the pure sets; the shares are solved for
    by least squares, at least 0 and together at most 1. Sources that are given together are not mistaken for one
    another; images of a source that is *not* given count for what they look like most.

    Args:
        mixed: features ``(N, D)`` of the images in question, at least 20.
        sources: features of images known to come from each source, at least 20, each clearly different from the
            trusted ones (:func:`is_separable`): a source that is not makes the shares of all unreliable.
        trusted: features of images known to be real, at least 20.
        level: of the intervals (bootstrap of the images' scores).
        seed: of folds and bootstrap.
        groups: int64, for the trusted images, those of every source and the mixed ones, in this order: images with one
            number are one picture. None if all differ.

    Raises:
        UsageError: too few features or pictures, different dimensions, or a value that is not finite.
    """
    from scipy.optimize import nnls

    _quantile(level)
    random = np.random.default_rng(seed)

    def solved(parts: Sequence[np.ndarray], whole: np.ndarray) -> np.ndarray:
        columns = np.stack([part.mean(0) for part in parts], 1)
        heavy = 1e3 * np.ones((1, len(parts)))  # shares of real images and of all sources sum to one
        return nnls(np.concatenate([columns, heavy]), np.append(whole.mean(0), 1e3))[0][1:]

    def again(part: np.ndarray) -> np.ndarray:
        return part[random.integers(0, len(part), len(part))]

    pure, (unknown,) = _scores([trusted, *sources.values()], seed, [mixed], groups)
    value = solved(pure, unknown)
    drawn = np.array([solved([again(part) for part in pure], again(unknown)) for _ in range(400)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: Share(float(min(value[i], 1.0)), float(low[i]), float(min(high[i], 1.0)))
        for i, name in enumerate(sources)
    }


def bound_on_share(
    mixed: Tensor, source: Tensor, *, level: float = 0.95, seed: int = 0, groups: Groups = None
) -> Share:
    """What share of ``mixed`` a source can make up at most: the smallest ratio of the two sets above a threshold.

    Args:
        mixed: features ``(N, D)`` of the images in question, at least 20.
        source: features of images known to come from the source, at least 20.
        level: probability that the bound holds.
        seed: of the folds.
        groups: int64 ``(N,)`` and ``(M,)``: images with one number are one picture; None if all differ.

    Raises:
        UsageError: too few features or pictures, different dimensions, or a value that is not finite.
    """
    (unknown, synthetic), _ = _scores([mixed, source], seed, groups=groups)
    unknown, synthetic = unknown[:, 1], synthetic[:, 1]
    highest = 1.0
    thresholds = np.quantile(synthetic, np.linspace(0, 0.95, 20))
    quantile = _quantile(1 - (1 - level) / len(thresholds))  # the least of twenty bounds: each must be surer
    for threshold in thresholds:
        of_source, of_mixed = (synthetic >= threshold).mean(), (unknown >= threshold).mean()
        # the interval of the ratio, by the delta method on its logarithm; half an image replaces none
        of_mixed = max(of_mixed, 0.5 / len(unknown))
        error = np.sqrt((1 - of_mixed) / (of_mixed * len(unknown)) + (1 - of_source) / (of_source * len(synthetic)))
        highest = min(highest, float(of_mixed / of_source * np.exp(quantile * error)))
    return Share(None, 0.0, highest)


def is_separable(trusted: Tensor, source: Tensor, *, seed: int = 0, groups: Groups = None) -> bool:
    """Whether a source differs from real images clearly enough for :func:`shares_of_sources` to say its share.

    Arguments as those of :func:`separation`.

    Raises:
        UsageError: too few features or pictures, different dimensions, or a value that is not finite.
    """
    real, synthetic = (scores[:, 1] for scores in _scores([trusted, source], seed, groups=groups)[0])
    error = np.sqrt(real.var(ddof=1) / len(real) + synthetic.var(ddof=1) / len(synthetic))
    return bool(synthetic.mean() - real.mean() > CLEAR * error)


def source_scores(
    images: Tensor, source: Tensor, trusted: Tensor | None = None, *, seed: int = 0, groups: Groups = None
) -> Tensor:
    """How much each image looks like those of a source, by models that did not see it.

    Args:
        images: features ``(N, D)``, at least 20.
        source: features of the source, at least 20.
        trusted: features of real images, which the source is told from; without them it is told from ``images``.
        seed: of the folds.
        groups: int64, for the trusted images (if given), the source and, last, the images if there are trusted ones,
            else first: images with one number are one picture. None if all differ.

    Returns:
        float64 ``(N,)``: probability of the source, were it as frequent as the others.
    """
    if trusted is None:
        return torch.from_numpy(_scores([images, source], seed, groups=groups)[0][0][:, 1])
    return torch.from_numpy(_scores([trusted, source], seed, [images], groups)[1][0][:, 1])


def _scores(
    sets: Sequence[Tensor], seed: int, others: Sequence[Tensor] = (), groups: Groups = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probabilities ``(N, sets)`` that an image belongs to each set, by models that did not see the image.

    ``others`` were seen by no model: theirs is the mean over all models, which has the same expectation; that of
    pictures that are in the sets, too, is the one model's that did not see them there.

    Args:
        sets: features of each set.
        seed: of the folds.
        others: features of further images.
        groups: int64, for all of these: images with one number are one picture. None if all differ.
    """
    points = _points([*sets, *others])
    random = np.random.default_rng(seed)
    pure, rest = points[: len(sets)], points[len(sets) :]
    numbers = [np.arange(len(part)) for part in points] if groups is None else [np.asarray(part) for part in groups]
    if groups is None:
        for before, after in pairwise(numbers):
            after += before[-1] + 1
    fold_of: dict[int, int] = {}
    folds = []
    for part in numbers[: len(sets)]:
        for number, fold in zip(part.tolist(), (random.permutation(len(part)) % FOLDS).tolist()):
            fold_of.setdefault(number, fold)
        folds.append(np.array([fold_of[number] for number in part.tolist()]))
        if len(set(folds[-1].tolist())) < 2:
            raise UsageError(f"a set of {len(part)} images that are copies of hardly any pictures cannot be compared")
    unseen_by = [np.array([fold_of.get(number, -1) for number in part.tolist()]) for part in numbers[len(sets) :]]
    scores = [np.empty((len(part), len(sets))) for part in pure]
    of_others = [np.zeros((len(part), len(sets))) for part in rest]
    for fold in range(FOLDS):
        model = _fitted([part[of != fold] for part, of in zip(pure, folds)])
        for part, of, score in zip(pure, folds, scores):
            if (of == fold).any():
                score[of == fold] = model.predict_proba(part[of == fold])
        for part, of, score in zip(rest, unseen_by, of_others):
            score += model.predict_proba(part) * np.where(of < 0, 1 / FOLDS, of == fold)[:, None]
    return scores, of_others


def _points(sets: Sequence[Tensor]) -> list[np.ndarray]:
    """Features of several sets as arrays, if they can be compared."""
    points = [as_points(features, "features").numpy() for features in sets]
    if len({part.shape[1] for part in points}) > 1:
        raise UsageError("features of different dimensions cannot be compared: two detectors?")
    if min(len(part) for part in points) < FEWEST:
        raise UsageError(f"a two-sample test needs at least {FEWEST} images a side, got {min(map(len, points))}")
    return points


def _fitted(sets: Sequence[np.ndarray]) -> Any:
    """A model that tells these sets apart, none being more frequent than the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
    return model.fit(np.concatenate(sets), np.repeat(np.arange(len(sets)), [len(part) for part in sets]))


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1 (0.95 for 95 %), got {level}")
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
