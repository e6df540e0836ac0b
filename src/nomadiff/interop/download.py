"""Files from an address, kept in the cache: whole, or not at all."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import atomic_path, sha256_of_file
from nomadiff.metrics.weights import cache_folder
from nomadiff.progress import progress_bar

__all__ = ["download"]


def download(url: str, *, sha256: str | None = None) -> Path:
    """Fetch ``url`` into the cache (``$NOMADIFF_CACHE/models``), or find it there.

    Args:
        url: an ``http``, ``https`` or ``file`` address.
        sha256: what the content must hash to; unknown for most published networks, whose importers record it.

    Returns:
        The local file; its name ends as the address does.

    Raises:
        UsageError: another kind of address.
        NomadiffError: the download failed or was cut short.
        DataError: the content has another hash.
    """
    parts = urlparse(url)
    if parts.scheme not in ("http", "https", "file"):
        raise UsageError(f"{url}: models are read from a path or from http, https or file addresses")
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    target = cache_folder() / "models" / f"{key}-{PurePosixPath(parts.path).name}"
    if not target.is_file():
        _fetch(url, target)
    if sha256 is not None and (found := sha256_of_file(target)) != sha256:
        target.unlink()
        raise DataError(f"{url}: its SHA-256 is {found}, expected {sha256}: another file")
    return target


def _fetch(url: str, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(temporary, "wb") as handle:
                size = int(answer.headers.get("Content-Length") or 0)
                with progress_bar(f"download {target.name[17:]}", total=size, unit="bytes") as advance:
                    while block := answer.read(1 << 20):
                        handle.write(block)
                        advance(len(block))
                    done = handle.tell()
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise NomadiffError(
                f"{url}: download failed ({reason}); fetch it elsewhere and give the file: nomadiff import FILE"
            ) from error
        if size and done != size:
            raise NomadiffError(f"{url}: download cut short ({done:,} of {size:,} bytes); run the command again")
