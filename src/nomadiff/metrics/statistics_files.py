"""Feature statistics in files: EDM's ``npz`` read and written, EDM2's pickle read without running it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomadiff.errors import DataError
from nomadiff.files import atomic_path, read_regular, require_regular
from nomadiff.metrics.frechet import Statistics
from nomadiff.pickled_values import Array, PlainValues
from nomadiff.safe_pickle import PickleReader, printable

__all__ = ["holds_statistics", "read_members", "read_statistics", "write_statistics"]

_BOMB = (256 << 20, 200)  # a member larger than this many bytes must not unpack to more than so many times its size


def write_statistics(path: str | Path, statistics: Statistics, **notes: Any) -> None:
    """Write ``mu`` and ``sigma`` as EDM's ``fid.py`` does, with ``count`` and ``notes`` beside them (atomic).

    EDM and pytorch-fid read the file and ignore the rest.

    Args:
        path: an ``.npz`` file.
        statistics: what is written, float64.
        notes: further arrays or texts.

    Raises:
        NomadiffError: the path cannot be written.
    """
    content = {"mu": statistics.mean.numpy(), "sigma": statistics.covariance.numpy()}
    if statistics.count is not None:
        content["count"] = np.asarray(statistics.count)
    content |= {name: np.asarray(value) for name, value in notes.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **content)  # type: ignore[arg-type]  # numpy's stub wants bool for any keyword


def read_statistics(path: str | Path, metric: str = "fid") -> Statistics:
    """Read feature statistics that nomadiff, EDM, pytorch-fid (``.npz``) or EDM2 (``.pkl``) has written.

    Args:
        path: the file.
        metric: which statistics of an EDM2 file: ``"fid"`` or ``"fd_dinov2"``.

    Raises:
        DataError: the file is absent, damaged, or holds something else; a pickle with anything but arrays is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    content = _read_pickle(path, metric) if path.suffix == ".pkl" else read_members(path, ("mu", "sigma", "count"))
    if "mu" not in content or "sigma" not in content:
        raise DataError(f"{path}: not a file of feature statistics (it needs the arrays mu and sigma)")
    mean, covariance = content["mu"], content["sigma"]
    if any(array.dtype.kind not in "fiu" for array in (mean, covariance)):
        raise DataError(f"{path}: mu or sigma is not made of real numbers")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not belong together")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: mu or sigma is not finite")
    return Statistics(torch.from_numpy(mean), torch.from_numpy(covariance), _count(content.get("count"), path))


def _count(value: Any, path: Path) -> int | None:
    if value is None:
        return None
    number = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if type(number) not in (int, float) or not 1 <= number < 1 << 53:
        raise DataError(f"{path}: its count of images is no number of images")
    return int(number)


def holds_statistics(path: str | Path) -> bool:
    """Whether this is a file of feature statistics rather than of images, by its ending and its table of contents."""
    path = Path(path)
    if path.suffix == ".pkl" or not path.is_file() or not zipfile.is_zipfile(path):
        return path.suffix == ".pkl" and path.is_file()
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except Exception:  # damaged archives make zipfile raise a dozen kinds
        return False


def read_members(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """These arrays of a ``.npz``, as far as it has them; nothing is unpacked that is not as large as it says.

    Raises:
        DataError: the file is damaged, packed as numpy does not, or holds Python objects.
    """
    found = {}
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            for name in names:
                if f"{name}.npy" in held:
                    if archive.getinfo(f"{name}.npy").compress_size > path.stat().st_size:
                        raise ValueError(f"{name} claims more bytes than there are")
                    found[name] = _member(archive, archive.getinfo(f"{name}.npy"))
    except Exception as error:  # zip and numpy each have their own for damaged files
        raise DataError(f"{path}: cannot be read ({printable(str(error), 200)})") from error
    return found


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    name = printable(entry.filename)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed as numpy does not")  # bz2 and lzma unpack without a bound
    if entry.file_size > _BOMB[0] and entry.file_size > _BOMB[1] * entry.compress_size:
        raise ValueError(f"{name} looks like a decompression bomb")
    with archive.open(entry) as handle:
        version = np.lib.format.read_magic(handle)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(handle)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{name} is not an array of plain numbers that its size has room for")
    with archive.open(entry) as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def _read_pickle(path: Path, metric: str) -> dict[str, Any]:
    """``mu``, ``sigma`` and ``count`` of one metric of EDM2's pickle."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    reader = PickleReader(data, str(path), PlainValues(str(path), len(data)).table())
    content = reader.read()
    if type(content) is not dict:
        raise DataError(f"{path}: not a file of EDM2 statistics")
    if type(content.get(metric)) is not dict:
        held = ", ".join(printable(name) for name, value in content.items() if type(value) is dict)
        raise DataError(f"{path}: holds no statistics for {metric!r} (it has: {held or 'none'})")
    found = {"count": content.get("num_images")}
    for name in ("mu", "sigma"):
        if isinstance(array := content[metric].get(name), Array):
            found[name] = array.value
    return found
