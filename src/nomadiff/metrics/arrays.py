"""Metrics of plain arrays: features or vectors of your own, without detector or images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping

import numpy as np
import torch

from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.distance_names import FDR
from nomadiff.metrics.fdr import fdr
from nomadiff.metrics.frechet import (
    Statistics,
    frechet_distance,
    frechet_distance_from_features,
    frechet_left_out,
)
from nomadiff.metrics.intervals import GROUPS, means_left_out, metric_interval, random_groups, validate_level
from nomadiff.metrics.kid import kid, kid_left_out
from nomadiff.metrics.manifold import prdc, prdc_left_out
from nomadiff.metrics.neighbours import check_finite, nearest_neighbours
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.splits import draws, fresh_count, mean_scores
from nomadiff.metrics.transport import sliced_wasserstein
from nomadiff.progress import progress_bar
from nomadiff.tables import Table

__all__ = ["metrics_of_arrays"]


def metrics_of_arrays(
    real: np.ndarray | Statistics,
    fake: np.ndarray,
    train: np.ndarray | None = None,
    *,
    k: int = 5,
    convention: str = "prdc",
    quantile: float = 0.05,
    projections: int = 200,
    interval: float = 0.95,
    allow_train_as_reference: bool = False,
) -> Table:
    """All metrics of two sets of vectors.

    Args:
        real: real numbers ``(N, D)``, not trained on; or their statistics, which give the Frechet distance alone.
        fake: generated ``(M, D)``, at least 40.
        train: what the generator was trained on ``(L, D)``; without it there is no ``replication``.
        k, convention: of precision, recall, density and coverage, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        projections: directions of the sliced Wasserstein distance.
        interval: level of the intervals, see :mod:`~nomadiff.metrics.intervals`.
        allow_train_as_reference: accept real vectors of which more than half are training vectors.

    Returns:
        Rows ``metric``, ``value``, ``low``, ``high`` and ``floor``: ``frechet_distance`` and its root
        ``bures_wasserstein``, ``fdr`` (see :mod:`~nomadiff.metrics.fdr`; without an interval), ``kernel_distance``
        (KID's estimate), ``sliced_wasserstein``, ``precision``, ``recall``,
        ``density``, ``coverage`` and ``replication``. The floor is what fresh real data scores: some of ``real``, drawn
        at random (:func:`~nomadiff.metrics.splits.fresh_count`), judged by the rest; None where that is too few. With
        fewer vectors distances come out larger, so a floor of halves is high. The meta says counts, settings and
        the hash of each array.

    Warns:
        NomadiffWarning: some of ``real`` are training vectors, or nearly; replication is calibrated without them, and
            the meta says how many: ``real_in_train``, of them ``real_near_train`` only nearly.

    Raises:
        UsageError: too few vectors, different dimensions, a value that is not finite, or more than half of ``real`` are
            training vectors.
    """
    validate_level(interval)
    if isinstance(real, Statistics):
        return _by_statistics(real, fake, train, interval)
    arrays = {"real": real, "fake": fake, "train": train}
    given = {name: _vectors(array, name) for name, array in arrays.items() if array is not None}
    x, y = given["real"], given["fake"]
    for name, array in given.items():
        if array.shape[1] != x.shape[1]:
            raise UsageError(f"{name}: vectors of dimension {array.shape[1]}, real has {x.shape[1]}")
    member = random_groups(len(y))
    near = _near_zero(given)  # for metrics of differences only
    splits = list(draws(len(x), len(y))) if fresh_count(len(x), len(y)) > k else []
    values, left_out = prdc_left_out(near["real"], near["fake"], member, k, convention)
    statistics = Statistics.from_features(x)
    row = {"frechet_distance": frechet_distance(statistics, Statistics.from_features(y))}
    left_out["frechet_distance"] = frechet_left_out(statistics, y, member)
    ratio = fdr(x, y)
    if ratio is not None:
        row[FDR] = ratio
    row["bures_wasserstein"] = row["frechet_distance"] ** 0.5
    left_out["bures_wasserstein"] = np.sqrt(left_out["frechet_distance"])
    row["kernel_distance"], left_out["kernel_distance"] = kid_left_out(x, y, member)
    # what came before shows bars of its own
    with progress_bar("sliced distance and floor", total=1 + GROUPS + len(splits), unit="parts") as advance:
        sliced = []
        for group in range(-1, GROUPS):
            sliced.append(sliced_wasserstein(x.numpy(), y[member != group].numpy(), projections))
            advance()
        row["sliced_wasserstein"], left_out["sliced_wasserstein"] = sliced[0], np.array(sliced[1:])
        fresh = []
        for split in splits:
            fresh.append(_real_against_real(x, near["real"], *split, k, convention, projections))
            advance()
    row |= values
    overlap = None
    if "train" in given:
        overlap = calibrate(
            near["train"], near["real"], quantile=quantile, allow_train_as_reference=allow_train_as_reference
        )
        if sentence := overlap.sentence("real vectors", "training vectors"):
            warnings.warn(sentence, NomadiffWarning, stacklevel=2)
        if overlap.threshold is not None:
            copied = nearest_neighbours(near["fake"], near["train"])[1][:, 0] <= overlap.threshold
            row["replication"] = float(copied.double().mean())
            left_out["replication"] = means_left_out(copied, member)
    floor: dict[str, float] = {"replication": quantile, FDR: 1.0, **(mean_scores(fresh) if fresh else {})}
    rows = []
    for name, value in row.items():
        low, high = None, None
        if name in left_out:
            low, high = metric_interval(name, value, left_out[name], interval, len(y))
        rows.append({"metric": name, "value": value, "low": low, "high": high, "floor": floor.get(name)})
    meta = {
        "count": {name: len(array) for name, array in given.items()},
        "floor_count": {"real": len(x) - fresh_count(len(x), len(y)), "fake": fresh_count(len(x), len(y))},
        "dimension": x.shape[1],
        "sha256": {name: hashlib.sha256(array.numpy().data).hexdigest() for name, array in given.items()},
        "k": k,
        "convention": convention,
        "quantile": quantile,
        "projections": projections,
        "interval": interval,
        **({} if overlap is None else {"real_in_train": overlap.exact + overlap.near, "real_near_train": overlap.near}),
    }
    return Table(rows, meta)


def _by_statistics(real: Statistics, fake: np.ndarray, train: np.ndarray | None, interval: float) -> Table:
    """The Frechet distance of vectors to a mean and covariance, and its root."""
    if train is not None:
        raise UsageError("replication needs the real vectors themselves, and these are statistics only")
    y = _vectors(fake, "fake")
    if y.shape[1] != len(real.mean):
        raise UsageError(f"fake: vectors of dimension {y.shape[1]}, real has {len(real.mean)}")
    value = frechet_distance(real, Statistics.from_features(y))
    without = frechet_left_out(real, y, random_groups(len(y)))
    rows = []
    for name, power in (("frechet_distance", 1.0), ("bures_wasserstein", 0.5)):
        low, high = metric_interval(name, value**power, without**power, interval, len(y))
        rows.append({"metric": name, "value": value**power, "low": low, "high": high, "floor": None})
    digest = hashlib.sha256(real.mean.numpy().tobytes() + real.covariance.numpy().tobytes()).hexdigest()
    return Table(
        rows,
        {
            "count": {"real": real.count, "fake": len(y)},
            "dimension": y.shape[1],
            "sha256": {"real": digest, "fake": hashlib.sha256(y.numpy().data).hexdigest()},
            "interval": interval,
        },
    )


def _real_against_real(
    x: torch.Tensor,
    near: torch.Tensor,
    some: torch.Tensor,
    rest: torch.Tensor,
    k: int,
    convention: str,
    directions: int,
) -> dict[str, float]:
    distance = frechet_distance_from_features(x[rest], x[some])
    return {
        "frechet_distance": distance,
        "bures_wasserstein": distance**0.5,
        "kernel_distance": kid(x[rest], x[some]),
        "sliced_wasserstein": sliced_wasserstein(x[rest].numpy(), x[some].numpy(), directions),
        **prdc(near[rest], near[some], k, convention),
    }


def _vectors(array: np.ndarray, name: str) -> torch.Tensor:
    values = np.asarray(array)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise UsageError(f"{name}: expected vectors (N, D), one a row, got {values.dtype} {values.shape}")
    kind = np.float32 if values.dtype in (np.float16, np.float32) else np.float64
    return check_finite(torch.from_numpy(np.array(values, dtype=kind)), name)


def _near_zero(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 for the neighbour search; where some are float64, all move to zero first, where it has the digits."""
    if all(array.dtype == torch.float32 for array in given.values()):
        return dict(given)
    middle = given["real"].double().mean(0)
    return {name: (array - middle).float() for name, array in given.items()}
