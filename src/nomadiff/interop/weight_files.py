"""The weights in a folder of diffusers: one file or shards, in full or half precision, safetensors or pickled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.errors import DataError
from nomadiff.files import open_regular, read_json
from nomadiff.interop.torch_files import read_torch_file
from nomadiff.safe_pickle import printable

__all__ = ["PATTERNS", "read_weights", "unwrapped"]

_STEM = "diffusion_pytorch_model"
PATTERNS = (f"{_STEM}.safetensors", f"{_STEM}*.safetensors", f"{_STEM}.bin", f"{_STEM}*.bin")
"""What the files may be called, best first: safetensors before pickles, full precision before variants and shards."""

_POINTER = b"version https://git-lfs"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a network that diffusers saved, on the CPU.

    Args:
        folder: its folder, such as ``unet/``.

    Raises:
        DataError: there are none, one is damaged, or they are pointers of git-lfs.
    """
    for form in ("safetensors", "bin"):
        for variant in ("", *_variants(folder, form)):
            whole = folder / f"{_STEM}{variant}.{form}"
            # before diffusers 0.31 the variant stood before the suffix
            indices = (folder / f"{_STEM}.{form}.index{variant}.json", folder / f"{_STEM}{variant}.{form}.index.json")
            index = next((path for path in indices if path.is_file()), None)
            if whole.is_file():
                return _read(whole)
            if index is not None:
                return _read_shards(index)
    raise DataError(f"{folder.name}/ holds no weights (such as {', '.join(PATTERNS[::2])})")


def _variants(folder: Path, form: str) -> list[str]:
    """Such as ``.fp16``, shortest first."""
    names = [
        path.name for path in folder.glob(f"{_STEM}.*") if form in path.name.split(".") and "-of-" not in path.name
    ]
    rests = {re.sub(rf"\.({form}|index|json)(?=\.|$)", "", name.removeprefix(_STEM)) for name in names}
    return sorted(rests - {""}, key=len)


def _read_shards(index: Path) -> dict[str, Tensor]:
    table = read_json(index)
    shards = table.get("weight_map") if isinstance(table, dict) else None
    names = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise DataError(f"{index.parent.name}/{index.name}: no index of shards")
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        found.update(_read(index.parent / name))
    return found


def _read(path: Path) -> dict[str, Tensor]:
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise DataError(f"{name} is missing: the download is incomplete")
    with open_regular(path) as handle:
        if handle.read(len(_POINTER)) == _POINTER:
            raise DataError(f"{name} is a pointer of git-lfs, not the weights: run git lfs pull in the repository")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{name} is damaged ({printable(str(error), 200)})") from error
    else:
        found = read_torch_file(path)
    if type(found) is not dict or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{name} is no table of weights")
    return {printable(str(key), 500): value for key, value in found.items()}


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what wrappers put before every name: ``module.`` (DDP), ``_orig_mod.`` (torch.compile)."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
