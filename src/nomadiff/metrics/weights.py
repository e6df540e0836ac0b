"""Weight files of detectors: found by path or URL, checked by SHA-256, loaded without running anything in them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError
from nomadiff.files import sha256_of_file

__all__ = ["load_weights", "read_tensors", "verified"]


def verified(path: str | Path, sha256: str) -> Path:
    """``path`` if its content has this SHA-256.

    Raises:
        DataError: the file is absent or has another hash (damaged, truncated, or not that file).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weight file")
    if (found := sha256_of_file(path)) != sha256.lower():
        raise DataError(f"{path}: its SHA-256 is {found}, expected {sha256.lower()}: damaged, or another file")
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a PyTorch file that holds nothing but tensors.

    Raises:
        DataError: the file is absent, truncated, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weight file")
    try:
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
    """Fill ``network`` from a file that holds exactly its tensors.

    Returns:
        The file's SHA-256.

    Raises:
        DataError: the file cannot be read, or a tensor is missing, left over or of another shape.
    """
    tensors = read_tensors(path)
    expected = network.state_dict()
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        word = "lacks" if wrong[0] in expected else "has an unknown"
        raise DataError(f"{path}: weights of another network ({word} {wrong[0]}; {len(wrong)} names differ)")
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise DataError(
                f"{path}: weights of another network ({name} is {tuple(tensors[name].shape)}, not {tuple(value.shape)})"
            )
    network.load_state_dict(tensors)
    return sha256_of_file(path)
