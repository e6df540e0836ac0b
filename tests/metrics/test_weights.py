"""Weight files by path and URL: cached, verified, never half there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.metrics.weights import WeightFile, cache_folder, resolve

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def remote(tmp_path) -> WeightFile:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    return WeightFile((tmp_path / "net.pth").as_uri(), SHA256)


def test_a_download_is_kept_and_not_repeated(cache, remote, tmp_path) -> None:
    path = resolve(remote)
    assert path.read_bytes() == CONTENT and path.parent == cache
    (tmp_path / "net.pth").unlink()
    assert resolve(remote) == path


def test_a_torn_cache_is_noticed_and_fetched_again(cache, remote) -> None:
    path = resolve(remote)
    path.write_bytes(CONTENT[:100])
    assert resolve(remote).read_bytes() == CONTENT


def test_wrong_content_leaves_nothing_behind(cache, remote, tmp_path) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="cut short, or another file"):
        resolve(remote)
    assert not list(cache.glob("*")) and not list(cache.glob(".*"))


def test_a_given_path_is_checked_and_not_copied(cache, remote, tmp_path) -> None:
    assert resolve(WeightFile("https://invalid.invalid/x", SHA256), tmp_path / "net.pth") == tmp_path / "net.pth"
    assert not cache.exists()
    with pytest.raises(DataError, match="damaged, or another file"):
        resolve(WeightFile("", "0" * 64), tmp_path / "net.pth")
    with pytest.raises(DataError, match="no such weight file"):
        resolve(remote, tmp_path / "absent.pth")


def test_without_network_the_way_out_is_told(cache) -> None:
    with pytest.raises(NomadiffError, match="download failed .* give the file as the detector's weights") as caught:
        resolve(WeightFile("https://127.0.0.1:1/net.pth", SHA256))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="http, https or file addresses"):
        resolve(WeightFile("ftp://host/net.pth", SHA256))


def test_where_the_cache_is(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("NOMADIFF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nomadiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "nomadiff"
