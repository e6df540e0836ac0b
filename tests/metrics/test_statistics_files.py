"""Statistics files of nomadiff, EDM and EDM2."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import types
import zipfile

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


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def edm2_file(path, protocol: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((50, 6))
    moments = EasyDict(mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    content = EasyDict(num_images=np.int64(50), fid=moments, fd_dinov2={"mu": np.zeros(2), "sigma": np.eye(2)})
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return moments


@pytest.fixture(autouse=True)
def dnnlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling looks classes up by name."""
    monkeypatch.setitem(sys.modules, "dnnlib", types.ModuleType("dnnlib"))
    monkeypatch.setitem(sys.modules, "dnnlib.util", types.SimpleNamespace(EasyDict=EasyDict))


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
        with pytest.raises(DataError, match=r"refused: it asks for"):
            read_statistics(path)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"fid": {"mu": np.zeros(100)}})[:60])
    with pytest.raises(DataError, match=r"cut\.pkl: damaged pickle"):
        read_statistics(tmp_path / "cut.pkl")


def program(*parts: bytes) -> bytes:
    """A pickle of protocol 4 from these instructions."""
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numpys(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def statistics_with(mu: bytes) -> bytes:
    return program(b"}(", text("num_images"), b"K\x05", text("fid"), b"}(", text("mu"), mu, text("sigma"), mu, b"uu")


EIGHT = b"C\x08" + b"A" * 8
MULTIARRAY = "numpy.core.multiarray"


def dtype(kind: str, state: bytes = b"") -> bytes:
    return numpys("numpy", "dtype", text(kind), b"\x89\x88") + state


def reconstructed(state: bytes) -> bytes:
    return numpys(MULTIARRAY, "_reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"C\x01b") + state


ARRAYS = {
    # numpy made of bytes what a file said they were: here a pointer to an object at 0x4141414141414141
    "pointer": numpys("numpy", "ndarray", b"K\x01\x85", dtype("O8"), EIGHT),
    "pointer in a state": reconstructed(b"(K\x01K\x01\x85" + dtype("O8") + b"\x89" + EIGHT + b"tb"),
    "pointer from a buffer": numpys("numpy.core.numeric", "_frombuffer", EIGHT, dtype("O8"), b"K\x01\x85", text("C")),
    "pointer by the flags of a void": reconstructed(
        b"(K\x01K\x01\x85" + dtype("V8", b"(K\x03" + text("|") + b"NNNK\x08K\x01K?tb") + b"\x89" + EIGHT + b"tb"
    ),
    "a scalar that is a pointer": numpys(MULTIARRAY, "scalar", dtype("O8"), EIGHT),
    # a dtype that grows after its array was made reads beyond its memory
    "grown": reconstructed(
        b"(K\x01K\x01\x85"
        + dtype("f8", b"(K\x03" + text("<") + b"NNNJ\x00\x00\x00\x10K\x01K\x00tb")
        + b"\x89C\x04AAAAtb"
    ),
    "more numbers than bytes": reconstructed(b"(K\x01J\x00\x00\x00\x10\x85" + dtype("f8") + b"\x89" + EIGHT + b"tb"),
    "a negative length": reconstructed(b"(K\x01J\xff\xff\xff\xff\x85" + dtype("f8") + b"\x89" + EIGHT + b"tb"),
    "a gigabyte of nothing": numpys("numpy", "ndarray", b"J\x00\x00\x00\x40\x85"),
    "text": reconstructed(b"(K\x01K\x01\x85" + dtype("S8") + b"\x89" + EIGHT + b"tb"),
}


@pytest.mark.parametrize("which", ARRAYS)
def test_arrays_are_made_of_checked_bytes(which: str, tmp_path) -> None:
    path = tmp_path / "f.pkl"
    path.write_bytes(statistics_with(ARRAYS[which]))
    with pytest.raises(DataError, match=r"f\.pkl: (refused|damaged)"):
        read_statistics(path)


def test_what_is_no_array_is_no_statistics(tmp_path) -> None:
    path = tmp_path / "f.pkl"
    path.write_bytes(statistics_with(reconstructed(b"(K\x01K\x01\x85" + dtype("f8") + b"\x89" + EIGHT + b"tb")))
    with pytest.raises(DataError, match="do not belong together"):  # the same pieces, with honest claims
        read_statistics(path)
    # ten lists of ten lists of ...: 1e9 numbers in a kilobyte
    bomb = b"](" + b"G?\xf0\x00\x00\x00\x00\x00\x00" * 10 + b"eq\x00"
    for level in range(8):
        bomb += b"](" + (b"h" + bytes([level])) * 10 + b"eq" + bytes([level + 1])
    path.write_bytes(statistics_with(b"](" + bomb + b"e"))
    with pytest.raises(DataError, match="needs the arrays mu and sigma"):
        read_statistics(path)
    path.write_bytes(program(b"}(", text("a"), b"Nr\xff\xff\xff\xffu"))  # a memo of 4 billion places
    with pytest.raises(DataError, match="holds no statistics"):
        read_statistics(path)


@pytest.mark.parametrize("count", [np.array([1, 2]), np.array("many"), np.array(-3), np.array(np.nan), np.array(1e300)])
def test_a_count_is_a_number_of_images(count, tmp_path) -> None:
    np.savez(tmp_path / "f.npz", mu=np.zeros(2), sigma=np.eye(2), count=count)
    with pytest.raises(DataError, match="its count of images is no number"):
        read_statistics(tmp_path / "f.npz")


def test_bombs_in_a_zip_are_not_unpacked(tmp_path) -> None:
    def header(shape: str, kind: str = "<f8") -> bytes:
        said = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said) + 1) + said + b"\n"

    for name, method, mu in (
        ("bz2", zipfile.ZIP_BZIP2, header("(4,)") + bytes(32)),
        ("announces", zipfile.ZIP_STORED, header("(1000000000000,)") + bytes(32)),
        ("objects", zipfile.ZIP_STORED, header("(1,)", "|O") + bytes(8)),
        ("times", zipfile.ZIP_STORED, header("(1,)", "<M8[s]") + bytes(8)),
    ):
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("mu.npy", mu)
            archive.writestr("sigma.npy", header("(1, 1)") + bytes(8))
        with pytest.raises(DataError, match="cannot be read|real numbers"):
            read_statistics(path)
