"""A model on the Hugging Face hub: ``hf:USER/NAME``, as ``export`` and ``push_to_hub`` put it there."""

from __future__ import annotations

import re
from pathlib import Path

from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.models.foreign import foreign
from nomadiff.safe_pickle import printable

__all__ = ["HUB_PREFIX", "fetch_model"]

HUB_PREFIX = "hf:"
_SETTINGS, _WEIGHTS = "*.json", "*.safetensors"  # plain values and weights: nothing else there is even fetched
_INDEX = "model_index.json"


def fetch_model(spec: str) -> Path:
    """The folder of a model of the hub, fetched unless huggingface_hub has it already. Nothing in it is run.

    Args:
        spec: ``hf:<user>/<name>``, and ``@<revision>`` behind it for another than the newest.

    Raises:
        UsageError: huggingface_hub is not installed, or this is no such name.
        DataError: it cannot be fetched: offline, private, or not there; or it is a pipeline of another program.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec)
    if match is None:
        raise UsageError(f"'{printable(spec, 200)}' is no model of the hub: write hf:<user>/<name>")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(f"the hub needs an extra: {install_command('diffusers')}") from error
    try:
        # settings first: they tell a pipeline of another program before gigabytes of its weights are here
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=[_SETTINGS]))
        other = foreign(folder) if (folder / _INDEX).exists() and not (folder / "model").is_dir() else None
        if other is None:
            folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=[_SETTINGS, _WEIGHTS]))
    except Exception as error:  # network, rights and hub errors of several libraries
        lines = str(error).strip().splitlines()
        reason = printable(lines[0] if lines else type(error).__name__, 200)
        raise DataError(
            f"{spec}: cannot be fetched ({reason}): offline, not yours to read, or no such model?"
        ) from error
    if other is not None:
        raise DataError(other.replace(str(folder), spec))
    pipeline = folder / "model"  # of a model that was exported as a pipeline of diffusers
    return pipeline if (folder / _INDEX).exists() and pipeline.is_dir() else folder
