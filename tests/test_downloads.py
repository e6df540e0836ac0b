"""Files from an address: kept, verified, continued where they were cut off."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from nomadiff.downloads import cache_folder, download
from nomadiff.errors import DataError, NomadiffError, UsageError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Shop(BaseHTTPRequestHandler):
    """Serves ``content``; with ``cut`` it hangs up after so many bytes. ``asked`` are the ranges asked for."""

    content: ClassVar[bytes] = CONTENT
    cut: ClassVar[int | None] = None
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        mark = f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == mark:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", mark)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : None if self.cut is None else start + self.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "downloads"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Shop, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/net.pth"
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_kept_and_not_fetched_again(cache: Path, shop: str) -> None:
    path = download(shop, sha256=SHA256)
    assert path.read_bytes() == CONTENT and path.parent == cache and path.name.endswith("-net.pth")
    assert download(shop, sha256=SHA256) == download(shop) == path
    assert len(Shop.asked) == 1


def test_a_file_of_this_machine_is_taken_from_where_it_lies(cache: Path, tmp_path: Path) -> None:
    """A copy in the cache would be the old file after it has changed."""
    path = tmp_path / "a net.pth"
    for content in (CONTENT, CONTENT[::-1]):
        path.write_bytes(content)
        assert download(path.as_uri()) == path
    assert not cache.exists()
    with pytest.raises(DataError, match=f"expected {SHA256}: another file"):
        download(path.as_uri(), sha256=SHA256)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_torn_file_in_the_cache_is_fetched_again(cache: Path, shop: str) -> None:
    path = download(shop, sha256=SHA256)
    path.write_bytes(CONTENT[:100])
    assert download(shop, sha256=SHA256).read_bytes() == CONTENT


def test_a_cut_download_continues(cache: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shop, "cut", 3000)
    for expected in ("3,000 of 7,000", "6,000 of 7,000"):
        with pytest.raises(NomadiffError, match=f"cut short .{expected} bytes.; run the command again") as caught:
            download(shop)
        assert "\n" not in str(caught.value)
    assert download(shop, sha256=SHA256).read_bytes() == CONTENT
    assert [wanted for wanted in Shop.asked if wanted] == ["bytes=3000-", "bytes=6000-"]
    assert len(files_in(cache)) == 1


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    cache: Path, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shop, "cut", 3000)
    with pytest.raises(NomadiffError, match="cut short"):
        download(shop)
    monkeypatch.setattr(Shop, "cut", None)
    monkeypatch.setattr(Shop, "content", CONTENT[::-1])
    assert download(shop).read_bytes() == CONTENT[::-1]
    assert len(files_in(cache)) == 1


def test_wrong_content_leaves_nothing_behind(cache: Path, shop: str) -> None:
    with pytest.raises(DataError, match=f"its SHA-256 is {SHA256}, expected 000.*: another file"):
        download(shop, sha256="0" * 64)
    assert files_in(cache) == []


def test_a_wrong_hash_does_not_cost_the_file_that_is_there(cache: Path, shop: str) -> None:
    path = download(shop)
    with pytest.raises(DataError):
        download(shop, sha256="0" * 64)
    assert path.read_bytes() == CONTENT


def test_failures_are_told_in_one_line(cache: Path, shop: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for address, kind, words in [
        ("ftp://host/net.pth", UsageError, "http, https or file addresses"),
        (
            "https://127.0.0.1:1/net.pth",
            NomadiffError,
            "download failed .*; fetch the file elsewhere and give its path",
        ),
        ((tmp_path / "absent").as_uri(), DataError, "absent: No such file"),
        ("file://another.machine/net.pth", UsageError, "of another machine"),
    ]:
        with pytest.raises(kind, match=words) as caught:
            download(address)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "file"))  # a file is where the folder should be
    with pytest.raises(NomadiffError, match="cannot be written") as caught:
        download(shop)
    assert "\n" not in str(caught.value)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOMADIFF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nomadiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "nomadiff"


def test_devices_and_what_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path))
    with pytest.raises(NomadiffError, match="file:///dev/zero: not a regular file"):
        download("file:///dev/zero")
    with pytest.raises(UsageError, match="not an address"):
        download("http://[::1")
