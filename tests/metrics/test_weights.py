"""Weight files by path and URL: verified, and never without a way on."""

from __future__ import annotations

import hashlib

import pytest

from nomadiff.errors import DataError, NomadiffError
from nomadiff.metrics.weights import WeightFile, resolve

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_given_path_is_checked_and_not_copied(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert resolve(WeightFile("https://invalid.invalid/x", SHA256), tmp_path / "net.pth") == tmp_path / "net.pth"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="damaged, or another file"):
        resolve(WeightFile("", "0" * 64), tmp_path / "net.pth")
    with pytest.raises(DataError, match="no such weight file"):
        resolve(WeightFile("", SHA256), tmp_path / "absent.pth")


def test_an_address_is_fetched_and_checked(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.pth").write_bytes(CONTENT)
    address = (tmp_path / "net.pth").as_uri()
    assert resolve(WeightFile(address, SHA256)).read_bytes() == CONTENT
    assert resolve(WeightFile("https://invalid.invalid/x", SHA256), address).read_bytes() == CONTENT
    with pytest.raises(DataError, match="expected 000"):
        resolve(WeightFile(address, "0" * 64))
    with pytest.raises(NomadiffError, match="download failed .* give its path instead"):
        resolve(WeightFile("https://127.0.0.1:1/net.pth", SHA256))
