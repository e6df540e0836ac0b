"""Metrics of plain arrays: features or vectors of your own, without detector or images."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import torch

from nomadiff.errors import DataError, NomadiffWarning, UsageError
from nomadiff.files import require_regular
from nomadiff.metrics.frechet import (
    Statistics,
    frechet_distance,
    frechet_distance_from_features,
    frechet_left_out,
)
from nomadiff.metrics.intervals import GROUPS, jackknife_interval, means_left_out, random_groups
from nomadiff.metrics.kid import kid, kid_left_out
from nomadiff.metrics.manifold import prdc, prdc_left_out
from nomadiff.metrics.neighbours import check_finite, nearest_neighbours
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.splits import draws, fresh_count, mean_scores
from nomadiff.metrics.transport import sliced_wasserstein
from nomadiff.safe_pickle import printable
from nomadiff.tables import Table

__all__ = ["metrics_of_arrays", "read_vectors"]

SHARES = ("precision", "recall", "coverage", "replication")


def read_vectors(path: str | Path) -> np.ndarray:
    """Read a ``.npy`` file of vectors ``(N, D)`` of any real number type, mapped rather than loaded.

    Raises:
        DataError: the file is absent, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        require_regular(path)
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged files make numpy raise half a dozen kinds
        raise DataError(f"{path}: cannot be read as a .npy array ({printable(str(error), 200)})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        kind = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "an archive"
        raise DataError(f"{path}: expected vectors (N, D), one a row, got {kind}")
    return values


def metrics_of_arrays(
    real: np.ndarray,
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
        real: real numbers ``(N, D)``, not trained on.
        fake: generated ``(M, D)``, at least 40.
        train: what the generator was trained on ``(L, D)``; without it there is no ``replication``.
        k, convention: of precision, recall, density and coverage, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        projections: directions of the sliced Wasserstein distance.
        interval: level of the intervals, see :mod:`~nomadiff.metrics.intervals`.
        allow_train_as_reference: accept real vectors of which more than half are training vectors.

    Returns:
        Rows ``metric``, ``value``, ``low``, ``high`` and ``floor``: ``frechet_distance`` and its root
        ``bures_wasserstein``, ``kernel_distance`` (KID's estimate), ``sliced_wasserstein``, ``precision``, ``recall``,
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
    arrays = {"real": real, "fake": fake, "train": train}
    given = {name: _vectors(array, name) for name, array in arrays.items() if array is not None}
    x, y = given["real"], given["fake"]
    for name, array in given.items():
        if array.shape[1] != x.shape[1]:
            raise UsageError(f"{name}: vectors of dimension {array.shape[1]}, real has {x.shape[1]}")
    member = random_groups(len(y))
    near = {name: _near_zero(array, x) for name, array in given.items()}  # for metrics of differences only
    values, left_out = prdc_left_out(near["real"], near["fake"], member, k, convention)
    statistics = Statistics.from_features(x)
    row = {"frechet_distance": frechet_distance(statistics, Statistics.from_features(y))}
    left_out["frechet_distance"] = frechet_left_out(statistics, y, member)
    row["bures_wasserstein"] = row["frechet_distance"] ** 0.5
    left_out["bures_wasserstein"] = np.sqrt(left_out["frechet_distance"])
    row["kernel_distance"], left_out["kernel_distance"] = kid_left_out(x, y, member)
    row["sliced_wasserstein"] = sliced_wasserstein(x.numpy(), y.numpy(), projections)
    left_out["sliced_wasserstein"] = np.array(
        [sliced_wasserstein(x.numpy(), y[member != group].numpy(), projections) for group in range(GROUPS)]
    )
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
    fresh = fresh_count(len(x), len(y))
    floor: dict[str, float] = {"replication": quantile}
    if fresh > k:
        floor |= mean_scores(
            [_real_against_real(x, near["real"], *split, k, convention, projections) for split in draws(len(x), len(y))]
        )
    rows = []
    for name, value in row.items():
        low, high = jackknife_interval(value, left_out[name], interval)
        low = low if name == "kernel_distance" else max(low, 0.0)
        high = min(high, 1.0) if name in SHARES else high
        rows.append({"metric": name, "value": value, "low": low, "high": high, "floor": floor.get(name)})
    meta = {
        "count": {name: len(array) for name, array in given.items()},
        "floor_count": {"real": len(x) - fresh, "fake": fresh},
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


def _near_zero(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """float32 for the neighbour search; float64 numbers are moved next to zero first, where it has the digits."""
    return x if x.dtype == torch.float32 else (x - real.mean(0)).float()
