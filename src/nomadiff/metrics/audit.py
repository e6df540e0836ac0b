"""Audit: does a folder that should be real hold images of a known synthetic source?

Every suspect is judged in three ways: near-duplicates across the two folders, how well a classifier tells them apart,
and which share of the folder the source can account for (see :mod:`~nomadiff.metrics.mixture`). The estimate is itself
tried on mixtures of trusted images in known shares, and its error on them is part of the result. A source that looks
real cannot be found by any such test; the audit then says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import Detector, extract_features, load_detector
from nomadiff.metrics.duplicates import Duplicates, near_duplicates
from nomadiff.metrics.mixture import (
    FEWEST,
    Separation,
    Share,
    bound_on_share,
    is_separable,
    separation,
    shares_of_sources,
)
from nomadiff.tables import Table

__all__ = ["SHARES", "Audit", "Suspicion", "audit", "known_mixtures"]

SHARES = (0.0, 0.05, 0.2, 0.5)


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
        sentence: all of it in words.
    """

    source: str
    copies: Duplicates
    separation: Separation
    share: Share | None
    error: float | None
    sentence: str


@dataclass(frozen=True)
class Audit:
    """The findings on one folder.

    Attributes:
        count: images in the folder.
        within: near-duplicates within the folder.
        suspicions: one for each suspect.
        detector: name of the detector whose features were used.
    """

    count: int
    within: Duplicates
    suspicions: list[Suspicion]
    detector: str

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
        return Table(rows, meta)

    def text(self) -> str:
        """The audit in plain words."""
        doubled = f"{self.within.count} of {self.count} images have a near-duplicate within the folder."
        return "\n".join([doubled, *(f"{item.source}: {item.sentence}" for item in self.suspicions)])


def audit(
    images: Tensor,
    suspects: Mapping[str, Tensor],
    *,
    trusted: Tensor | None = None,
    detector: str | Detector = "pixels",
    level: float = 0.95,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> Audit:
    """Audit images that should be real.

    Args:
        images: the folder in question, uint8 ``(N, C, H, W)``, at least 20.
        suspects: name of each synthetic source and images of it, uint8 of the same size, at least 20.
        trusted: images known to be real; without them shares are upper bounds.
        detector: feature space. Pixels see the traces that generators leave better than a classifier's features do.
        level: of the intervals.
        device: where a detector given by name computes.
        cache: folder where features are kept between runs.

    Raises:
        UsageError: no suspects, too few images, or images of different sizes.
    """
    if not suspects:
        raise UsageError("an audit needs at least one suspect source")
    loaded = load_detector(detector, device=device)
    for name, others in {"trusted": trusted, **suspects}.items():
        if others is not None and others.shape[1:] != images.shape[1:]:
            sizes = f"{tuple(others.shape[1:])}, the folder's are {tuple(images.shape[1:])}"
            raise UsageError(f"{name}: images of {sizes}")
    features = extract_features(loaded, images, cache=cache)
    of_sources = {name: extract_features(loaded, others, cache=cache) for name, others in suspects.items()}
    shares: dict[str, Share] = {}
    errors: dict[str, float] = {}
    if trusted is None:
        shares = {name: bound_on_share(features, source, level=level) for name, source in of_sources.items()}
    else:
        known = extract_features(loaded, trusted, cache=cache)
        clear = {name: source for name, source in of_sources.items() if is_separable(known, source)}
        if clear:
            shares = shares_of_sources(features, clear, known, level=level)
        for name, source in clear.items():
            if min(len(known), len(source)) >= 4 * FEWEST:
                rows = known_mixtures(known, source, level=level)
                errors[name] = float(np.mean([abs(row["estimate"] - row["share"]) for row in rows]))
    suspicions = []
    for name, others in suspects.items():
        apart = separation(features, of_sources[name], level=level)
        copies = near_duplicates(images, others)
        share, error = shares.get(name), errors.get(name)
        sentence = _sentence(len(images), copies, apart, share, error)
        suspicions.append(Suspicion(name, copies, apart, share, error, sentence))
    return Audit(len(images), near_duplicates(images), suspicions, loaded.name)


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
        One row a share: ``share``, ``estimate``, ``low``, ``high``; with trusted images that cannot be told from the
        source ``estimate`` is NaN.

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
    rows = []
    for share in shares:
        added = round(share * count)
        mixed = torch.cat([fresh[: count - added], hidden[:added]])
        row = {"share": added / count, "estimate": math.nan, "low": 0.0, "high": 1.0}
        found = None
        if not with_trusted:
            found = bound_on_share(mixed, known, level=level, seed=seed)
        elif is_separable(trusted, known, seed=seed):
            found = shares_of_sources(mixed, {"source": known}, trusted, level=level, seed=seed)["source"]
        if found is not None:
            row |= {"estimate": found.share, "low": found.low, "high": found.high}
        rows.append(row)
    return rows


def _sentence(count: int, copies: Duplicates, apart: Separation, share: Share | None, error: float | None) -> str:
    parts = []
    if copies.count:
        parts.append(f"{copies.count} of {count} images are near-duplicates of it")
    if share is None:
        parts.append("it cannot be told from trusted real images, so no share can be said")
    elif share.bound_only and share.high > 0.9:
        parts.append("the folder cannot be told from it; give trusted real images to learn which share comes from it")
    elif share.bound_only:
        parts.append(f"at most {share.high:.0%} of the folder can come from it (likely {share.share:.0%})")
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
