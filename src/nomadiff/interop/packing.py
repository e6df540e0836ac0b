"""Write a model as one self-contained folder: all its parts, without training state."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.files import write_json
from nomadiff.models.model import Model
from nomadiff.models.provenance import SOURCES_NAME, origins
from nomadiff.training.run_folder import save_tensors, versions

__all__ = ["pack_model"]


def pack_model(model: Model, folder: str | Path) -> None:
    """Write a model with all its parts into a folder that ``Model.load`` reads, wherever it is moved.

    A merged model (Neon) becomes the single network that it is.

    Args:
        model: the model.
        folder: where to; made if it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if model.guidance is None or model.guidance.kind == "merge":
        _write_single(model, folder / "model.safetensors")
        write_json(folder / "config.json", {"versions": versions(), "recipe": model.config.to_dict()})
        write_json(folder / SOURCES_NAME, origins(model))
        return
    names: dict[str, Any] = {}
    for name, part in zip(("base", "auxiliary"), model.parts):
        if isinstance(part, Model) and part.guidance is not None and part.guidance.kind != "merge":
            pack_model(part, folder / name)
            names[name] = name
        else:
            names[name] = f"{name}.safetensors"
            _write_part(part, folder / names[name])
    replace(model.guidance, **names).write(folder)
    write_json(folder / SOURCES_NAME, origins(model))


def _write_part(part: Any, path: Path) -> None:
    if isinstance(part, Model):
        _write_single(part, path)
    else:  # a discriminator
        part.save(path)


def _write_single(model: Model, path: Path) -> None:
    if model.guidance is None:
        shutil.copyfile(model.path, path)
        return
    metadata = {"recipe": model.config.to_dict(), "merged": model.guidance.facts(), "of": model.sha256}
    save_tensors(path, model.network.state_dict(), metadata)
