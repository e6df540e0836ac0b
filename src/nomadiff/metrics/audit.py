"""Audit: does a folder that should be real hold images of a known synthetic source?

Every suspect is judged in three ways: near-duplicates across the two folders, how well a classifier tells them apart,
and which share of the folder the source can account for (see :mod:`~nomadiff.metrics.mixture`). The estimate is itself
tried on mixtures of trusted images in known shares, and its error on them is part of the result. A source that looks
real cannot be found by any such test; the audit then says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.features import extract_features
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.duplicates import Duplicates, near_duplicates
from nomadiff.metrics.mixture import (
    FEWEST,
    Separation,
    Share,
    bound_on_share,
    is_separable,
    separation,
    shares_of_sources,
    source_scores,
)
from nomadiff.tables import Table

__all__ = ["FOLDER", "SHARES", "Audit", "Suspicion", "audit", "known_mixtures"]

SHARES = (0.0, 0.05, 0.2, 0.5)
FOLDER = "folder"  # what the set in question is called among the sources


@dataclass(frozen=True)
class Suspicion:
    """The findings on one suspect source.

    Attributes:
        source: its name.
        copies: images of the folder that near-duplicate one of the source.
        separation: how well the folder and the source are told apart.
        share: share of the folder that comes from the source; None where the source cannot be told from real images.
        error: mean absolute error of the share on mixtures of trusted images and the source in known shares; None
            without trusted images, or with too few.
        scores: float64 ``(N,)``, how much each image of the folder looks like the source: the probability of a
            classifier that did not see it, which takes both for equally frequent. None where the two cannot be told
            apart.
        sentence: all of it in words.
    """

    source: str
    copies: Duplicates
    separation: Separation
    share: Share | None
    error: float | None
    scores: Tensor | None
    sentence: str


@dataclass(frozen=True)
class Audit:
    """The findings on one folder.

    Attributes:
        count: images in the folder.
        within: near-duplicates within the folder.
        suspicions: one for each suspect.
        detector: name of the detector whose features were used.
        trusted: images of the folder that are among the trusted ones too, if there are such.
        names: names of the files of the folder (``"folder"``) and of each source; without them images go by number.
    """

    count: int
    within: Duplicates
    suspicions: list[Suspicion]
    detector: str
    trusted: int = 0
    names: Mapping[str, Sequence[str] | None] = field(default_factory=dict)

    def name_of(self, index: int, source: str = FOLDER) -> str:
        """The file of an image of the folder or of a source, or its number, as in ``"image 7"``."""
        names = self.names.get(source)
        return f"image {index}" if names is None else names[index]

    def table(self) -> Table:
        """One row a suspect."""
        rows = []
        for item in self.suspicions:
            share = item.share
            rows.append(
                {
                    "source": item.source,
                    "share": share.share if share else None,
                    "share_low": share.low if share else None,
                    "share_high": share.high if share else None,
                    "bound_only": share.bound_only if share else None,
                    "share_error": item.error,
                    "auc": item.separation.auc,
                    "auc_low": item.separation.low,
                    "auc_high": item.separation.high,
                    "copies": item.copies.count,
                    "sentence": item.sentence,
                }
            )
        meta = {"count": self.count, "duplicates_within": self.within.count, "detector": self.detector}
        meta |= {"trusted_within": self.trusted} if self.trusted else {}
        return Table(rows, meta)

    def duplicates(self) -> Table:
        """One row a pair of near-duplicates: two files, ``kind`` and ``difference`` as in
        :class:`~nomadiff.metrics.duplicates.Duplicates`; ``of`` says whose the second one is."""
        rows = []
        for source, found in ((FOLDER, self.within), *((item.source, item.copies) for item in self.suspicions)):
            for (one, other), kind, difference in zip(found.pairs.tolist(), found.kinds, found.difference.tolist()):
                first, second = self.name_of(one), self.name_of(other, source)
                rows.append({"image": first, "of": source, "doubles": second, "kind": kind, "difference": difference})
        return Table(rows, {"count": self.count})

    def most_synthetic(self) -> Table:
        """One row an image of the folder, those that look most like any source first: its file and, by source, its
        score; empty where no source can be told from the images."""
        scored = {item.source: item.scores for item in self.suspicions if item.scores is not None}
        if not scored:
            return Table([], {"count": self.count})
        order = torch.stack(list(scored.values())).amax(0).argsort(descending=True, stable=True).tolist()
        rows = [{"image": self.name_of(i), **{name: float(each[i]) for name, each in scored.items()}} for i in order]
        return Table(rows, {"count": self.count, "detector": self.detector})

    def text(self) -> str:
        """The audit in plain words."""
        told = [f"{self.within.count} of {self.count} images have a near-duplicate within the folder."]
        if self.trusted:
            told.append(f"{self.trusted} of {self.count} images are among the trusted ones: they are taken for real.")
        return "\n".join([*told, *(f"{item.source}: {item.sentence}" for item in self.suspicions)])


def audit(
    images: Tensor,
    suspects: Mapping[str, Tensor],
    *,
    trusted: Tensor | None = None,
    detector: str | Detector = DEFAULT_DETECTOR,
    level: float = 0.95,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> Audit:
    """Audit images that should be real.

    Args:
        images: the folder in question, uint8 ``(N, C, H, W)``, at least 20.
        suspects: name of each synthetic source and images of it, uint8 of the same size, at least 20.
        trusted: images known to be real; without them shares are upper bounds.
        detector: feature space. A classifier of objects hardly sees the traces that generators leave.
        level: of the intervals.
        device: where a detector given by name computes.
        cache: folder where features are kept between runs.

    Raises:
        UsageError: no suspects, one of a name that is taken, too few images, images of different sizes, or trusted
            images that are the folder's own, or a suspect's.
    """
    if not suspects:
        raise UsageError("an audit needs at least one suspect source")
    loaded = load_detector(detector, device=device)
    for name, others in {"trusted": trusted, **suspects}.items():
        if others is not None and others.shape[1:] != images.shape[1:]:
            sizes = f"{tuple(others.shape[1:])}, the folder's are {tuple(images.shape[1:])}"
            raise UsageError(f"{name}: images of {sizes}")
    sets = {FOLDER: images, **({} if trusted is None else {"trusted": trusted}), **suspects}
    if len(sets) != len(suspects) + 1 + (trusted is not None):
        raise UsageError(f"a suspect cannot be called {FOLDER!r} or 'trusted', which the others are called")
    doubles = _doubles(sets)
    _check_trusted(sets, doubles)
    groups = _groups(sets, doubles)
    features = {name: extract_features(loaded, each, cache=cache) for name, each in sets.items()}
    folder = features[FOLDER]
    shares: dict[str, Share] = {}
    errors: dict[str, float] = {}
    if trusted is None:
        for name in suspects:
            both = (groups[FOLDER], groups[name])
            shares[name] = bound_on_share(folder, features[name], level=level, groups=both)
    else:
        known = features["trusted"]
        clear = [
            name for name in suspects if is_separable(known, features[name], groups=(groups["trusted"], groups[name]))
        ]
        if clear:
            alike = [groups[name] for name in ("trusted", *clear, FOLDER)]
            of_clear = {name: features[name] for name in clear}
            shares = shares_of_sources(folder, of_clear, known, level=level, groups=alike)
        for name in clear:
            if min(len(known), len(features[name])) >= 4 * FEWEST:
                rows = known_mixtures(known, features[name], level=level)
                errors[name] = float(np.mean([abs(row["estimate"] - row["share"]) for row in rows]))
    suspicions = []
    for name in suspects:
        source = features[name]
        apart = separation(folder, source, level=level, groups=(groups[FOLDER], groups[name]))
        share, error, copies = shares.get(name), errors.get(name), doubles[FOLDER, name]
        scores = None
        if share is not None and trusted is not None:
            alike = [groups[each] for each in ("trusted", name, FOLDER)]
            scores = source_scores(folder, source, features["trusted"], groups=alike)
        elif share is not None and apart.low > 0.5:
            scores = source_scores(folder, source, groups=(groups[FOLDER], groups[name]))
        sentence = _sentence(len(images), copies, apart, share, error)
        suspicions.append(Suspicion(name, copies, apart, share, error, scores, sentence))
    known_real = 0 if trusted is None else doubles[FOLDER, "trusted"].count
    return Audit(len(images), doubles[FOLDER, FOLDER], suspicions, loaded.name, known_real)


def _check_trusted(sets: Mapping[str, Tensor], doubles: Mapping[tuple[str, str], Duplicates]) -> None:
    """Refuse trusted images that decide the answer beforehand: then every folder is clean, or no source is found."""
    if "trusted" not in sets:
        return
    count, known = len(sets[FOLDER]), doubles[FOLDER, "trusted"].count
    if count - known < FEWEST <= count:
        raise UsageError(
            f"{known:,} of {count:,} images of the folder are among the trusted ones, which are taken for real: there "
            "is nothing left to judge; give other images as trusted, known to be real"
        )
    for name in list(sets)[2:]:
        count, known = len(sets["trusted"]), doubles["trusted", name].count
        if 2 * known > count:
            raise UsageError(f"{known:,} of {count:,} trusted images are {name}'s: they cannot be real and synthetic")


def _doubles(sets: Mapping[str, Tensor]) -> dict[tuple[str, str], Duplicates]:
    """Near-duplicates within each set, and of each among every later one."""
    names = list(sets)
    return {
        (one, other): near_duplicates(sets[one], None if one == other else sets[other])
        for i, one in enumerate(names)
        for other in names[i:]
    }


def _groups(sets: Mapping[str, Tensor], doubles: Mapping[tuple[str, str], Duplicates]) -> dict[str, Tensor]:
    """A number for each image of each set, int64 ``(N,)``: the same for all copies of one picture."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    counts = [len(each) for each in sets.values()]
    starts = dict(zip(sets, np.cumsum([0, *counts])[:-1].tolist()))
    pairs = [found.pairs.numpy() + np.array([starts[one], starts[other]]) for (one, other), found in doubles.items()]
    i, j = np.concatenate(pairs).T
    numbers = connected_components(coo_array((np.ones(len(i)), (i, j)), (sum(counts), sum(counts))), directed=False)[1]
    return dict(zip(sets, torch.from_numpy(numbers.astype(np.int64)).split(counts)))


def known_mixtures(
    real: Tensor,
    source: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    with_trusted: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Try :func:`~nomadiff.metrics.mixture.shares_of_sources` on mixtures whose share is known.

    Args:
        real: features ``(N, D)`` of real images, at least 80: one half is trusted, the other goes into the mixtures.
        source: features ``(M, D)`` of the source, at least 80, halved likewise.
        shares: the shares of the source to mix in.
        with_trusted: False leaves the trusted half out: :func:`~nomadiff.metrics.mixture.bound_on_share` is tried.
        level: of the intervals.
        seed: of the halves and mixtures.

    Returns:
        One row a share: ``share``, ``estimate``, ``low``, ``high``; ``estimate`` is NaN without trusted images, and
        with ones that cannot be told from the source.

    Raises:
        UsageError: too few features.
    """
    if min(len(real), len(source)) < 4 * FEWEST:
        raise UsageError(f"known mixtures need at least {4 * FEWEST} images a side, got {len(real)} and {len(source)}")
    random = np.random.default_rng(seed)
    real, source = (part[torch.from_numpy(random.permutation(len(part)))] for part in (real, source))
    trusted, fresh = real[: len(real) // 2], real[len(real) // 2 :]
    known, hidden = source[: len(source) // 2], source[len(source) // 2 :]
    count = int(min(len(fresh), len(hidden) / max(max(shares), 0.01)))
    told = with_trusted and is_separable(trusted, known, seed=seed)
    rows = []
    for share in shares:
        added = round(share * count)
        mixed = torch.cat([fresh[: count - added], hidden[:added]])
        row = {"share": added / count, "estimate": math.nan, "low": 0.0, "high": 1.0}
        found = None
        if not with_trusted:
            found = bound_on_share(mixed, known, level=level, seed=seed)
        elif told:
            found = shares_of_sources(mixed, {"source": known}, trusted, level=level, seed=seed)["source"]
        if found is not None:
            row |= {"low": found.low, "high": found.high}
            row |= {} if found.share is None else {"estimate": found.share}
        rows.append(row)
    return rows


def _sentence(count: int, copies: Duplicates, apart: Separation, share: Share | None, error: float | None) -> str:
    parts = []
    if copies.count:
        parts.append(f"{copies.count} of {count} images are near-duplicates of it")
    if share is None:
        parts.append("it cannot be told from trusted real images, so no share can be said")
    elif share.bound_only and share.high > 0.9:
        parts.append("any share of the folder may come from it, none too: only trusted real images can tell")
    elif share.share is None:
        parts.append(
            f"at most {share.high:.0%} of the folder comes from it, and maybe none: only trusted real images can tell"
        )
    elif share.low > 0:
        parts.append(f"{share.share:.0%} of the folder comes from it ({share.low:.0%} to {share.high:.0%})")
    elif share.high <= 0.2:
        parts.append(f"no trace of it (at most {share.high:.0%} of the folder)")
    else:
        parts.append(f"anything from none to {share.high:.0%} of the folder may come from it")
    parts.append(f"a classifier tells the two apart with AUC {apart.auc:.2f}")
    if error is not None and math.isfinite(error):
        parts.append(f"on mixtures of known shares the estimate was off by {error:.1%} on average")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
