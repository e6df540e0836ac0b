"""Feature statistics in files: EDM's ``npz`` read and written, EDM2's pickle read without running it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomadiff.errors import DataError
from nomadiff.files import atomic_path
from nomadiff.metrics.frechet import Statistics

__all__ = ["holds_statistics", "read_statistics", "write_statistics"]


def write_statistics(path: str | Path, statistics: Statistics, **notes: Any) -> None:
    """Write ``mu`` and ``sigma`` as EDM's ``fid.py`` does, with ``count`` and ``notes`` beside them (atomic).

    EDM and pytorch-fid read the file and ignore the rest.

    Args:
        path: an ``.npz`` file.
        statistics: what is written, float64.
        notes: further arrays or texts.

    Raises:
        NomadiffError: the place cannot be written.
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
    content = _read_pickle(path) if path.suffix == ".pkl" else _read_npz(path)
    if path.suffix == ".pkl":
        if not isinstance(content.get(metric), Mapping):
            held = ", ".join(str(name) for name, value in content.items() if isinstance(value, Mapping)) or "none"
            raise DataError(f"{path}: holds no statistics for {metric!r} (it has: {held})")
        content = {"count": content.get("num_images"), **content[metric]}
    if "mu" not in content or "sigma" not in content:
        raise DataError(f"{path}: not a file of feature statistics (it needs the arrays mu and sigma)")
    mean, covariance = np.asarray(content["mu"], np.float64), np.asarray(content["sigma"], np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not belong together")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: mu or sigma is not finite")
    count = content.get("count")
    return Statistics(torch.from_numpy(mean), torch.from_numpy(covariance), None if count is None else int(count))


def holds_statistics(path: str | Path) -> bool:
    """Whether this is a file of feature statistics rather than of images, by its ending and its table of contents."""
    path = Path(path)
    if path.suffix == ".pkl" or not path.is_file() or not zipfile.is_zipfile(path):
        return path.suffix == ".pkl" and path.is_file()
    with zipfile.ZipFile(path) as archive:
        return {"mu.npy", "sigma.npy"} <= set(archive.namelist())


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ("mu", "sigma", "count") if name in archive}
    except Exception as error:  # zip and numpy each have their own for damaged files
        raise DataError(f"{path}: cannot be read ({str(error)[:200]})") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain values, dictionaries and numpy arrays; every other name is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "EasyDict":  # EDM2's dictionary with attributes
            return _Dictionary
        if module.split(".")[0] == "numpy":
            if name in ("dtype", "ndarray"):
                return getattr(np, name)
            if name == "_reconstruct":
                return np.empty(0).__reduce__()[0]
            if name == "_frombuffer":
                return np.empty(1).__reduce_ex__(5)[0]
            if name == "scalar":
                return np.float64(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):  # how old protocols carry bytes
            return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Dictionary(dict[str, Any]):
    """Stands for a dictionary of a class that is not here; pickles hand over its items, some also its attributes."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state)


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as handle:
            content = _ArraysOnly(handle).load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path}: cannot be read as EDM2 statistics ({str(error)[:200]})") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: not a file of EDM2 statistics")
    return content
