"""What people give for a model that is none of nomadiff's: said by its kind, with the command that is right for it."""

from __future__ import annotations

from pathlib import Path

from nomadiff.data.containers import image_names
from nomadiff.errors import DataError
from nomadiff.files import printable

__all__ = ["refuse_other_kinds"]

_FOREIGN = (".pkl", ".pt", ".pth", ".bin", ".ckpt", ".mdlus")
_SETS = (".npz", ".npy", ".zip")
_OURS = "a model is a run folder or one of its .safetensors files"


def refuse_other_kinds(path: Path) -> None:
    """Pass a run folder, a ``.safetensors`` file and a path where nothing is.

    Raises:
        DataError: something else lies there.
    """
    place, suffix = printable(str(path)), path.suffix.lower()
    imported = f"make it one of nomadiff's first: nomadiff import {place} --out MODEL"
    if path.is_dir():
        parts = ("model_index.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
        ours = (path / "model.safetensors").exists()  # an exported model has diffusers' index as well
        if not ours and any((path / name).exists() for name in parts):
            raise DataError(f"{place}: a model of diffusers; {imported}")
    elif not path.exists() or suffix == ".safetensors":
        return
    elif suffix in _FOREIGN:
        raise DataError(f"{place}: not a model of nomadiff; {imported}")
    elif suffix in _SETS or image_names([path.name]):
        raise DataError(f"{place}: images or arrays, not a model; {_OURS}")
    else:
        raise DataError(f"{place}: not a model; {_OURS}")
