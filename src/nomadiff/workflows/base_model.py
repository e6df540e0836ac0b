"""The model that a verb begins with; one of another program is imported first."""

from __future__ import annotations

import os
from pathlib import Path

from nomadiff.files import sha256_of
from nomadiff.interop.importing import import_model
from nomadiff.models.foreign import is_importable
from nomadiff.models.model import Model, as_model
from nomadiff.processes import Processes
from nomadiff.progress import say

__all__ = ["base_model"]


def base_model(
    model: Model | str | Path, verb: str, out: Path, processes: Processes, *, vae: str | None = None
) -> Model:
    """The base of an improvement or a shift.

    Weights of EDM, EDM2 or physicsnemo and unconditional pipelines of diffusers are imported into ``OUT-base-HASH``,
    beside the result; called again, it is there already. The hash is that of their files.

    Args:
        model: a model, anything :meth:`~nomadiff.models.model.Model.load` loads, or such a file or folder.
        verb: what needs it, for messages.
        out: where the result goes.
        processes: who works; the main one imports.
        vae: autoencoder of a model of latents, if it is not where its recipe says.

    Raises:
        UsageError, DataError: as :func:`~nomadiff.models.model.as_model` and
            :func:`~nomadiff.interop.importing.import_model`.
    """
    if isinstance(model, (str, os.PathLike)) and is_importable(model):
        imported = out.with_name(f"{out.name}-base-{sha256_of(Path(model))[:8]}")
        if processes.is_main and not imported.exists():
            import_model(model, imported)
            say(f"imported {model} as {imported}")
        processes.barrier()
        model = imported
    return as_model(model, verb, processes.device, vae=vae)
