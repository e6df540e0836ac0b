"""Files from an address, kept in a cache: whole and verified, or not at all.

The cache is ``$NOMADIFF_CACHE``, by default ``$XDG_CACHE_HOME/nomadiff``, else ``~/.cache/nomadiff``. A download that
was cut off continues where it stopped, as long as the server says that it still has the same file. Of several processes
that want the same file one fetches it and the others wait.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import one_line_errors, require_regular, sha256_of_file
from nomadiff.progress import progress_bar

__all__ = ["cache_folder", "download"]


def cache_folder() -> Path:
    """Folder of downloaded files and computed features; see the module."""
    if folder := os.environ.get("NOMADIFF_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nomadiff"


def download(url: str, *, sha256: str | None = None) -> Path:
    """Fetch ``url`` into the cache, or find it there. A file of this machine is taken from where it lies.

    Args:
        url: an ``http``, ``https`` or ``file`` address.
        sha256: what the content must hash to. It is checked at every use, so that a truncated or replaced file is
            noticed and fetched again; where it is not known the file in the cache is taken as it is.

    Returns:
        The local file; its name ends as the address does.

    Raises:
        UsageError: another kind of address.
        NomadiffError: the download failed or was cut short, or the cache cannot be written.
        DataError: the content has another hash, and what was fetched is thrown away; or a ``file`` address is of no
            regular file.
    """
    from filelock import FileLock

    try:
        parts = urlparse(url)
    except ValueError as error:
        raise UsageError(f"{url}: not an address ({error})") from error
    if parts.scheme not in ("http", "https", "file"):
        raise UsageError(f"{url}: files are read from a path or from http, https or file addresses")
    if parts.scheme == "file":
        return _local(url, sha256)
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{PurePosixPath(parts.path).name}"
    target = cache_folder() / "downloads" / name
    if _is_here(target, sha256):
        return target
    with one_line_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")):
            if _is_here(target, sha256):  # another process was faster
                return target
            part = _fetch(url, target)
            try:
                _check(url, part, sha256)
            except DataError:
                part.unlink()
                raise
            os.replace(part, target)
            for leftover in target.parent.glob(f".{name}.*.part"):  # of a file that has changed since
                leftover.unlink()
    return target


def _is_here(target: Path, sha256: str | None) -> bool:
    return target.is_file() and (sha256 is None or sha256_of_file(target) == sha256)


def _local(url: str, sha256: str | None) -> Path:
    """The file behind a ``file`` address: a copy of it would stay as it is when the file changes."""
    parts = urlparse(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{url}: a file of another machine; give an http or https address")
    path = Path(urllib.request.url2pathname(parts.path))
    try:
        require_regular(path)  # a device never ends
        _check(url, path, sha256)
    except OSError as error:
        raise DataError(f"{url}: {error.strerror or error}") from error
    return path


def _check(url: str, path: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := sha256_of_file(path)) != sha256:
        raise DataError(f"{url}: its SHA-256 is {found}, expected {sha256}: another file")


def _fetch(url: str, target: Path) -> Path:
    """The whole file beside ``target``, flushed to disk; what a failed attempt leaves there the next one continues."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            part = target.with_name(f".{target.name}.{hashlib.sha256(version.encode()).hexdigest()[:8]}.part")
            done = part.stat().st_size if version and part.exists() else 0
            if not 0 < done < size:
                return _copied(answer, part, 0, size, url)
        rest = urllib.request.Request(url, headers={"Range": f"bytes={done}-", "If-Range": version})
        with urllib.request.urlopen(rest, timeout=60) as answer:
            if answer.status != 206:  # the server does not continue files, or has another one by now
                return _copied(answer, part, 0, size, url)
            return _copied(answer, part, done, size, url)
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NomadiffError(
            f"{url}: download failed ({reason}); fetch the file elsewhere and give its path instead"
        ) from error


def _copied(answer: Any, part: Path, done: int, size: int, url: str) -> Path:
    """``part`` with the body of the answer behind its first ``done`` bytes."""
    with open(part, "ab" if done else "wb") as handle:
        name = PurePosixPath(urlparse(url).path).name
        with progress_bar(f"download {name}", total=size, unit="bytes", done=done) as advance:
            while block := answer.read(1 << 20):
                handle.write(block)
                advance(len(block))
        handle.flush()
        os.fsync(handle.fileno())
        done = handle.tell()
    if size and done != size:
        raise NomadiffError(f"{url}: cut short ({done:,} of {size:,} bytes); run the command again to continue")
    return part
