"""What a model was trained on: the ``sources.json`` that every run folder, import and improvement carries."""

from __future__ import annotations

from typing import Any

from nomadiff.errors import DataError
from nomadiff.files import read_json
from nomadiff.methods.model import Model

__all__ = ["SOURCES_NAME", "origins"]

SOURCES_NAME = "sources.json"


def origins(model: Model) -> list[dict[str, Any]]:
    """What a model was trained on, as the folder around its weights says: one mapping a source.

    A guided model's origins are those of its base. Empty if nothing says so.

    Raises:
        DataError: the file is there and damaged.
    """
    if model.guidance is not None:
        first = model.parts[0]
        return origins(first) if isinstance(first, Model) else []
    around = model.path.parent.parent if model.path.parent.name == "snapshots" else model.path.parent
    path = around / SOURCES_NAME
    found = read_json(path) if path.is_file() else []
    if not isinstance(found, list) or not all(isinstance(source, dict) for source in found):
        raise DataError(f"{path}: not a list of sources")
    return found
