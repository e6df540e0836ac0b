"""Recognise files that are not models of nomadiff, and name the command for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError
from nomadiff.files import read_json

__all__ = ["bare_network", "foreign", "is_importable", "is_nomadiff", "require_images"]

_WEIGHTS = (".pkl", ".pt", ".pth", ".ckpt", ".bin", ".mdlus")
_IMAGES = (".npz", ".npy", ".zip", ".tar", ".png", ".jpg", ".jpeg", ".parquet")


def foreign(path: str | Path, *, images: bool = True) -> str | None:
    """Why a path is no model of nomadiff, with the command to use on it; None if it may be one.

    Only names and configurations are read. The message never asks to delete files of another program.

    Args:
        path: a file or folder.
        images: whether files of images are named, too.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() in _WEIGHTS:
            return f"{path}: weights of another program: import them first (nomadiff import {path} --out MODEL)"
        if images and path.suffix.lower() in _IMAGES:
            return f"{path}: no model: by its name a set of images, to train on or to evaluate"
        return None
    if not path.is_dir() or is_nomadiff(path):
        return None
    if (path / "model_index.json").is_file():
        if is_importable(path):
            return f"{path}: a pipeline of diffusers: import it first (nomadiff import {path} --out MODEL)"
        use = f"nomadiff synthesize --from {path} --prompts faces"
        return f"{path}: a text-to-image pipeline of diffusers: see {use} and nomadiff lora"
    if (network := bare_network(path)) is not None:
        return network
    if next(path.glob("*.pkl"), None) is not None:
        return f"{path}: snapshots of EDM2 or EDM: import one of them, or an average (nomadiff import {path} --std 0.1)"
    return None


def is_importable(path: str | Path) -> bool:
    """Whether a path looks like weights or a pipeline of another program that ``nomadiff import`` takes as it is."""
    path = Path(path)
    if path.is_file():
        return path.suffix.lower() in _WEIGHTS
    return not is_nomadiff(path) and "UNet2DModel" in json.dumps(_settings(path / "model_index.json"))


def require_images(spec: str) -> None:
    """Refuse a model where images are needed.

    Raises:
        DataError: it is one, of nomadiff or of another program; the message says the command for it.
    """
    path = Path(spec)
    if path.suffix.lower() == ".safetensors" or (path.is_dir() and is_nomadiff(path)):
        raise DataError(f"{spec}: a model, no images: draw some first (nomadiff sample {spec} --out SAMPLES)")
    if path.is_dir() and (reason := foreign(path)) is not None:
        raise DataError(reason)


def bare_network(folder: Path) -> str | None:
    """Advice for a network of diffusers without its scheduler, as training scripts keep it; None if it is none."""
    inside = [name for name in ("unet_ema", "unet") if "_class_name" in _settings(folder / name / "config.json")]
    itself = "_class_name" in _settings(folder / "config.json")
    if not itself and not inside:
        return None
    network = folder if itself else folder / inside[0]
    pipeline = next((above for above in folder.resolve().parents[:2] if (above / "model_index.json").is_file()), None)
    where = f"copy the files of {network} into the folder unet/ of " + (
        f"a copy of {pipeline}" if pipeline else "its pipeline (model_index.json, scheduler/, unet/)"
    )
    return (
        f"{folder}: a network of diffusers without a scheduler, which says what its numbers mean: {where}, "
        "and import that"
    )


def is_nomadiff(folder: Path) -> bool:
    """Whether a folder is a run, a guided model or an improvement of nomadiff, finished or not."""
    if any((folder / name).exists() for name in ("guidance.json", "model.safetensors", "improve.json", "shift.json")):
        return True
    return "recipe" in _settings(folder / "config.json")


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is none to be read."""
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}
