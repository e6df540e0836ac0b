"""Statistics files of nomadiff, EDM and EDM2."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from nomadiff.errors import DataError
from nomadiff.metrics.frechet import Statistics, frechet_distance
from nomadiff.metrics.statistics_files import holds_statistics, read_statistics, write_statistics


def features(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_file_as_edm_writes_it(tmp_path) -> None:
    x = features(50, 6, 0)
    statistics = Statistics.from_features(x)
    write_statistics(tmp_path / "ref.npz", statistics, detector="digits")
    back = read_statistics(tmp_path / "ref.npz")
    assert back.count == 50
    assert torch.equal(back.covariance, statistics.covariance)
    np.savez(tmp_path / "edm.npz", mu=x.double().mean(0).numpy(), sigma=np.cov(x.double().numpy(), rowvar=False))
    edm = read_statistics(tmp_path / "edm.npz")
    assert edm.count is None
    assert frechet_distance(edm, statistics) == pytest.approx(0, abs=1e-9)


def test_statistics_are_told_from_images(tmp_path) -> None:
    write_statistics(tmp_path / "ref.npz", Statistics.from_features(features(50, 6, 0)))
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "ref.npz").read_bytes()[:300])
    (tmp_path / "ref.pkl").write_bytes(b"x")
    expected = {"ref.npz": True, "ref.pkl": True, "images.npz": False, "cut.npz": False, "absent.npz": False}
    assert {name: holds_statistics(tmp_path / name) for name in expected} == expected


def test_bad_statistics_files_are_named(tmp_path) -> None:
    write_statistics(tmp_path / "whole.npz", Statistics.from_features(features(50, 6, 0)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(tmp_path / "nan.npz", mu=np.full(2, np.nan), sigma=np.zeros((2, 2)))
    for name, words in {
        "cut": "cannot be read",
        "other": "needs the arrays mu and sigma",
        "shapes": "do not belong together",
        "nan": "not finite",
        "absent": "no such file",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            read_statistics(tmp_path / f"{name}.npz")
        assert f"{name}.npz" in str(caught.value) and "\n" not in str(caught.value)


class EasyDict(dict):
    """As EDM2 defines it: a dictionary with attributes."""

    def __getattr__(self, name: str):
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value


def edm2_file(path, protocol: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((50, 6))
    moments = EasyDict(mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    content = EasyDict(num_images=np.int64(50), fid=moments, fd_dinov2={"mu": np.zeros(2), "sigma": np.eye(2)})
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return moments


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_edm2_pickles_are_read_without_their_classes(tmp_path, protocol: int) -> None:
    moments = edm2_file(tmp_path / "ref.pkl", protocol)
    statistics = read_statistics(tmp_path / "ref.pkl")
    assert statistics.count == 50
    np.testing.assert_array_equal(statistics.covariance.numpy(), moments["sigma"])
    assert read_statistics(tmp_path / "ref.pkl", "fd_dinov2").mean.tolist() == [0, 0]
    with pytest.raises(DataError, match="no statistics for 'is' \\(it has: fid, fd_dinov2\\)"):
        read_statistics(tmp_path / "ref.pkl", "is")


def test_pickles_that_ask_for_more_than_arrays_are_refused(tmp_path) -> None:
    class Attack:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "ran"),))

    for name, content in {"system": Attack(), "nested": {"fid": {"mu": Attack()}}, "function": np.load}.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"cannot be read as EDM2 statistics \(it asks for"):
            read_statistics(path)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"fid": {"mu": np.zeros(100)}})[:60])
    with pytest.raises(DataError, match=r"cut\.pkl: cannot be read"):
        read_statistics(tmp_path / "cut.pkl")
