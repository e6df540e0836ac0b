"""Metrics of plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.arrays import metrics_of_arrays
from nomadiff.metrics.frechet import frechet_distance_from_features
from nomadiff.metrics.manifold import prdc
from nomadiff.metrics.vector_files import read_vectors


def draw(count: int, seed: int, dimension: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension))


def by_name(table) -> dict[str, dict]:
    return {row["metric"]: row for row in table.rows}


def test_every_metric_with_an_interval() -> None:
    real, fake, train = draw(300, 0), draw(250, 1), draw(100, 2)
    table = metrics_of_arrays(real, fake, train)
    rows = by_name(table)
    shares = ["precision", "recall", "density", "coverage", "replication"]
    distances = ["frechet_distance", "bures_wasserstein", "kernel_distance", "sliced_wasserstein"]
    ratio = rows.pop("fdr")  # has no interval
    assert ratio["low"] is None and ratio["value"] == pytest.approx(1, abs=0.5)
    assert list(rows) == [*distances, *shares]
    assert rows["bures_wasserstein"]["value"] ** 2 == pytest.approx(rows["frechet_distance"]["value"])
    # fake is fresh data here: it sits at its floor
    assert all(row["low"] < row["floor"] + 0.1 and row["high"] > row["floor"] - 0.1 for row in rows.values())
    assert table.meta["floor_count"] == {"real": 164, "fake": 136}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert rows["frechet_distance"]["value"] == pytest.approx(frechet_distance_from_features(real, fake), rel=1e-5)
    assert rows["coverage"]["value"] == prdc(real, fake)["coverage"]
    assert rows["kernel_distance"]["low"] < 0.05 and rows["replication"]["value"] < 0.15
    assert table.meta["count"] == {"real": 300, "fake": 250, "train": 100} and table.meta["dimension"] == 4


def test_too_few_real_vectors_for_a_floor_leave_the_rest() -> None:
    rows = by_name(metrics_of_arrays(draw(9, 0), draw(50, 1)))
    assert rows["precision"]["floor"] is None and rows["precision"]["value"] >= 0


def test_copies_and_shifts_show() -> None:
    real, train = draw(300, 0), draw(100, 2)
    copier = by_name(metrics_of_arrays(real, train, train))
    assert copier["replication"]["value"] == copier["replication"]["high"] == 1 > copier["replication"]["low"] > 0.96
    shifted = by_name(metrics_of_arrays(real, draw(300, 1) + 3))
    assert shifted["sliced_wasserstein"]["low"] > 2.5 and "replication" not in shifted
    assert shifted["precision"]["value"] < 0.2


def test_double_numbers_far_from_zero_keep_their_digits() -> None:
    real, fake, train = draw(120, 0), draw(100, 1), draw(50, 2)
    far = by_name(metrics_of_arrays(real + 1e9, fake + 1e9, train + 1e9))
    for name, row in by_name(metrics_of_arrays(real, fake, train)).items():
        if name != "kernel_distance":  # its kernel knows where zero is
            assert far[name]["value"] == pytest.approx(row["value"], rel=1e-4), name


def test_arrays_of_two_precisions_lie_in_one_space() -> None:
    """Those of double precision alone were moved next to zero: nothing was near anything."""
    arrays = {"real": draw(120, 0) + 5, "fake": draw(100, 1) + 5, "train": draw(50, 2) + 5}
    same = by_name(metrics_of_arrays(*arrays.values()))
    for other in arrays:
        mixed = [array.astype(np.float32) if name == other else array for name, array in arrays.items()]
        for name, row in by_name(metrics_of_arrays(*mixed)).items():
            assert row["value"] == pytest.approx(same[name]["value"], rel=1e-3, abs=1e-6), (other, name)


def test_files_are_checked(tmp_path) -> None:
    np.save(tmp_path / "a.npy", draw(50, 0).astype(np.float16))
    assert read_vectors(tmp_path / "a.npy").shape == (50, 4)
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:100])
    for name, words in {
        "images": r"expected vectors \(N, D\), one a row, got float64 \(3, 8, 8\)",
        "objects": "cannot be read as a .npy array",
        "cut": "cannot be read as a .npy array",
        "absent": "no such file",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            read_vectors(tmp_path / f"{name}.npy")
        assert f"{name}.npy" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_arrays_are_told() -> None:
    good, spoiled = draw(50, 0), draw(50, 1)
    spoiled[3] = np.nan
    for arrays, words in [
        ((good, good[:39]), "at least 40 samples, got 39"),
        ((good, good[:, :2]), "fake: vectors of dimension 2, real has 4"),
        ((good, good, good[:, :2]), "train: vectors of dimension 2, real has 4"),
        ((good, spoiled), "fake: row 3 is not finite"),
        ((spoiled, good), "real: row 3 is not finite"),
        ((good, good[0]), r"fake: expected vectors \(N, D\)"),
        ((np.ones((50, 4)), good), "constant features"),
    ]:
        with pytest.raises(UsageError, match=words):
            metrics_of_arrays(*arrays)
