"""Vectors in files: ``.npy``, ``.npz``, ``.pt`` and ``.safetensors``, none of which runs anything; and statistics."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import DataError
from nomadiff.files import require_regular
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.statistics_files import holds_statistics, read_members, read_statistics, write_statistics
from nomadiff.metrics.weights import read_tensors
from nomadiff.safe_pickle import printable

__all__ = ["read_real_vectors", "read_vectors", "save_real_vectors"]

FEATURES = "features"  # what an array is called where there are several


def read_vectors(path: str | Path) -> np.ndarray:
    """Read vectors ``(N, D)`` of any real number type.

    Args:
        path: ``.npy`` (mapped rather than loaded); ``.npz``, ``.pt``, ``.pth`` or ``.safetensors`` with one array or
            tensor, or one that is called ``features``. A ``.pt`` is read as tensors and plain values only.

    Raises:
        DataError: the file is absent, damaged, would have to run code to be read, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: a folder; vectors are in a file (nomadiff evaluate scores images)")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        values: Any = _in_archive(path)
    elif suffix in (".pt", ".pth"):
        values = _in_torch_file(path)
    elif suffix == ".safetensors":
        tensors = read_tensors(path)
        values = _as_array(tensors[_chosen(path, list(tensors))])
    else:
        try:
            require_regular(path)
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # damaged files make numpy raise half a dozen kinds
            raise DataError(f"{path}: cannot be read as a .npy array ({printable(str(error), 200)})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        kind = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "something else"
        raise DataError(f"{path}: expected vectors (N, D), one a row, got {kind}")
    return values


def read_real_vectors(path: str | Path) -> np.ndarray | Statistics:
    """Vectors, or only their mean and covariance where a file has no more: one of EDM's, say (``.npz`` or ``.pkl``).

    Raises:
        DataError: as :func:`read_vectors` and :func:`~nomadiff.metrics.statistics_files.read_statistics`.
    """
    path = Path(path)
    if holds_statistics(path) and FEATURES not in ([] if path.suffix == ".pkl" else _names(path)):
        return read_statistics(path)
    return read_vectors(path)


def save_real_vectors(path: str | Path, vectors: np.ndarray) -> None:
    """Write vectors ``(N, D)`` with their statistics (``mu``, ``sigma``, which EDM's scripts read), to score by later.

    Raises:
        NomadiffError: the path cannot be written.
    """
    write_statistics(path, Statistics.from_features(np.array(vectors)), features=vectors)


def _in_archive(path: Path) -> np.ndarray:
    name = _chosen(path, _names(path))
    return read_members(path, [name])[name]


def _names(path: Path) -> list[str]:
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except Exception as error:  # damaged archives make zipfile raise a dozen kinds
        raise DataError(f"{path}: cannot be read as a .npz archive ({printable(str(error), 200)})") from error


def _in_torch_file(path: Path) -> Any:
    try:
        require_regular(path)
        if not zipfile.is_zipfile(path):  # the format before torch 1.6 is a bare pickle
            raise ValueError("not a file of torch.save, or damaged")
        with warnings.catch_warnings(action="ignore"):  # about a damaged file torch first warns, then raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words are how to run it all the same
        raise DataError(f"{path}: holds more than tensors and plain values; nothing of it was run") from error
    except Exception as error:  # zip, pickle and tensors each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as tensors ({printable(reason, 200)})") from error
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        content = tensors[_chosen(path, list(tensors))]
    return _as_array(content)


def _as_array(content: Any) -> Any:
    if not isinstance(content, Tensor) or content.layout != torch.strided:
        return content
    content = content.detach()
    return (content.float() if content.dtype == torch.bfloat16 else content).numpy()


def _chosen(path: Path, names: Sequence[str]) -> str:
    if FEATURES in names:
        return FEATURES
    if len(names) != 1:
        told = ", ".join(printable(name) for name in list(names)[:10]) or "none"
        raise DataError(f"{path}: expected one array, or one that is called '{FEATURES}'; there are {told}")
    return names[0]
