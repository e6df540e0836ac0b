"""Weight files of detectors: found by path or URL, checked by SHA-256, loaded without running anything in them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nomadiff.downloads import download
from nomadiff.errors import DataError
from nomadiff.files import require_regular, sha256_of_file

__all__ = ["WeightFile", "fill", "load_weights", "read_tensors", "resolve", "verified"]


@dataclass(frozen=True)
class WeightFile:
    """A published file of weights: its address and SHA-256."""

    url: str
    sha256: str


def resolve(file: WeightFile, given: str | Path | None = None) -> Path:
    """A local path to ``file``, verified: the one given, or a cached or fresh download.

    Args:
        file: what the content must be, and where it comes from by default.
        given: path or URL (http, https, file) of the same file somewhere else.

    Raises:
        DataError: the content has another hash, or a given path is absent.
        NomadiffError: the download failed; the message says how to go on without it.
    """
    source = str(given) if given is not None else file.url
    if "://" not in source:
        return verified(source, file.sha256)
    return download(source, sha256=file.sha256)


def verified(path: str | Path, sha256: str) -> Path:
    """``path`` if its content has this SHA-256.

    Raises:
        DataError: the file is absent or has another hash (damaged, truncated, or not that file).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weight file")
    if (found := sha256_of_file(path)) != sha256:
        raise DataError(f"{path}: its SHA-256 is {found}, expected {sha256}: damaged, or another file")
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a PyTorch file that holds nothing but plain values and tensors.

    Raises:
        DataError: the file is absent, truncated, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weight file")
    try:
        require_regular(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about a damaged file torch first warns, then raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own exceptions for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as weights ({reason[:200]})") from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: holds no table of tensors")
    return dict(content)


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Fill ``network`` from a file that holds exactly its tensors, and give the file's SHA-256.

    Raises:
        DataError: the file cannot be read, or belongs to another network.
    """
    fill(network, read_tensors(path), str(path))
    return sha256_of_file(path)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill ``network`` with exactly these tensors; ``where`` names their origin in messages.

    The step counters of batch norms, which evaluation does not use and old files lack, may be absent.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    expected = network.state_dict()
    differing = {name for name in expected.keys() ^ tensors.keys() if not name.endswith("num_batches_tracked")}
    if differing:
        first = min(differing)
        word = "lacks" if first in expected else "has an unknown"
        raise DataError(f"{where}: weights of another network ({word} {first}; {len(differing)} names differ)")
    for name, value in expected.items():
        if name in tensors and tensors[name].shape != value.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(value.shape)}"
            raise DataError(f"{where}: weights of another network ({name} is {shapes})")
    network.load_state_dict({name: value for name, value in tensors.items() if name in expected}, strict=False)
