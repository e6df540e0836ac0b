"""Weights as nomadiff stores them: safetensors files, each with its recipe or what is known without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.models.own_denoiser import DenoiserFacts
from nomadiff.networks.build import build_filled
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.run_folder import RunFolder, load_tensors

__all__ = ["read_weights"]


def read_weights(path: Path, *, snapshot: int | None, vae: str | None) -> tuple[EDMDenoiser, Facts, Path]:
    """The denoiser of a run folder or a weights file, what is known of it (its recipe), and the file.

    Args:
        path: a run folder, or a safetensors file.
        snapshot, vae: as for :meth:`nomadiff.models.model.Model.load`.

    Raises:
        DataError: not a model, damaged, or unfinished.
        UsageError: no such snapshot, or an autoencoder for a model of images.
    """
    if path.is_dir():
        file = _weights_of_run(path, snapshot)
    elif snapshot is None:
        file = path
    else:
        raise UsageError("a snapshot is chosen in a run folder; this is a single file")
    try:
        tensors, metadata = load_tensors(file)
    except DataError as error:
        if (file.parent / "config.json").exists():  # the model of a run: its state or last snapshot gives it again
            raise DataError(f"{error}: run the training command again, which makes it anew") from error
        raise
    if "recipe" not in metadata and "denoiser" not in metadata:
        raise DataError(
            f"{file}: not a model of nomadiff (no recipe in it); another tool's is imported first (nomadiff import)"
        )
    known: RunConfig | DenoiserFacts
    try:
        if "recipe" in metadata:
            known = RunConfig.from_dict(metadata["recipe"])
            known.network.validate()
        else:
            known = DenoiserFacts.from_dict(metadata["denoiser"])
    except NomadiffError as error:
        raise DataError(f"{file}: {error}") from error
    known = _decoded_by(known, vae)
    try:
        denoiser = build_filled(known.build_denoiser, tensors)
    except DataError as error:
        raise DataError(f"{file}: its weights do not fit its recipe ({error})") from error
    return denoiser, known, file


def _weights_of_run(path: Path, snapshot: int | None) -> Path:
    folder = RunFolder(path)
    available = folder.snapshots()
    known = ", ".join(map(str, available)) or "none"
    if snapshot is not None and snapshot not in available:
        raise UsageError(f"{path} has no snapshot at {snapshot} images; it has: {known}")
    file = folder.model_path if snapshot is None else folder.snapshot_path(snapshot)
    if not file.exists():
        for table, what in (("improve.json", "improvement"), ("shift.json", "shift")):
            if (path / table).exists():
                raise DataError(f"{path} is an unfinished {what}: run its command again")
        folder.config()  # DataError unless it holds a run
        raise DataError(f"{path} is not finished: run its training command again, or take a snapshot ({known})")
    return file


def _decoded_by(config: RunConfig | DenoiserFacts, vae: str | None) -> RunConfig | DenoiserFacts:
    """The recipe with its autoencoder elsewhere; a model of four channels that names none gets EDM2's space."""
    if vae is None:
        return config
    if config.latents is None and config.shape[0] in (1, 3):
        raise UsageError("this is a model of images: it takes no autoencoder (--vae)")
    return replace(config, latents=replace(config.latents or LatentSpace(), vae=vae))
