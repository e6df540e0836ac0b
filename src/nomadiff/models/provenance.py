"""Training data of a model: the ``sources.json`` that every run folder, import and improvement carries."""

from __future__ import annotations

from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model

__all__ = ["SOURCES_NAME", "origins", "refuse_training_set"]

SOURCES_NAME = "sources.json"


def origins(model: Model) -> list[dict[str, Any]]:
    """Training data of a model, from the folder of its weights: one mapping a source.

    A guided model's origins are those of its base. Empty if none are recorded.

    Raises:
        DataError: the file is there and damaged.
    """
    if model.guidance is not None:
        first = model.parts[0]
        return origins(first) if isinstance(first, Model) else []
    if not model.is_stored:
        return []
    around = model.path.parent.parent if model.path.parent.name == "snapshots" else model.path.parent
    path = around / SOURCES_NAME
    found = read_json(path) if path.is_file() else []
    if not isinstance(found, list) or not all(isinstance(source, dict) for source in found):
        raise DataError(f"{path}: not a list of sources")
    return found


def refuse_training_set(model: Model, reference: ReferenceSet) -> None:
    """Refuse a reference that is the model's training set, by the hash that its folder records.

    A part of the training set has another hash: it is found where the training images themselves are given
    (``ReferenceSet(train=...)``).

    Raises:
        UsageError: it is, and was not allowed when the reference was made.
    """
    trained_on = {source.get("content_hash") for source in origins(model)} - {None}
    if reference.meta["reference_sha256"] in trained_on and not reference.allow_train_as_reference:
        raise UsageError(
            "the reference is the set the model was trained on: against it a model that copies looks perfect. Give "
            "held-out real images, or pass --allow-train-as-reference"
        )
