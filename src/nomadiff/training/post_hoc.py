"""Weights of a finished run, averaged with another width."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.networks.build import misfit
from nomadiff.training.phema import combine, exponent_of_std, post_hoc_factors
from nomadiff.training.run_folder import RunFolder, load_metadata, load_tensors, save_tensors

__all__ = ["rebuild_average"]


def rebuild_average(run: str | Path, std: float, out: str | Path, *, images_seen: int | None = None) -> Path:
    """Write the model that a run would have ended with, had it averaged its weights with relative width ``std``.

    The best width is known only by trying: it differs between models, guidance and metrics (Karras et al. 2024, section
    3). It is computed by least squares from the averages in the run's snapshots: the more snapshots, the closer.

    Args:
        run: folder of a run trained with ``ema_stds``.
        std: wanted relative width, between 0 and 0.288.
        out: file to write, ``*.safetensors``; load it with ``Model.load``.
        images_seen: images seen at the end of the average; None takes the last snapshot.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` exists, ``std`` is out of range, the run kept no such averages, or has no snapshot at
            ``images_seen``.
        DataError: a snapshot is damaged, or one of another network than the rest.
    """
    exponent_of_std(std)
    out = Path(out)
    if out.exists():
        raise UsageError(f"{out} exists; choose another file")
    stored = [(path, load_metadata(path)) for path in sorted((RunFolder(run).path / "snapshots").glob("*.safetensors"))]
    stored = [(path, metadata) for path, metadata in stored if "ema_std" in metadata]
    for path, metadata in stored:
        kinds = type(metadata.get("images_seen")), type(metadata["ema_std"]), type(metadata.get("recipe"))
        if kinds != (int, float, dict):
            raise DataError(f"{path}: no snapshot of a run (it does not say what it is)")
    if not stored:
        raise UsageError(f"{run} kept no power-function averages: train with ema_stds=(0.05, 0.10)")
    ends = sorted({metadata["images_seen"] for _, metadata in stored})
    end = ends[-1] if images_seen is None else images_seen
    if end not in ends:
        raise UsageError(f"{run} has no snapshot at {end} images; it has: {', '.join(map(str, ends))}")
    stored = [(path, metadata) for path, metadata in stored if metadata["images_seen"] <= end]
    times = [float(metadata["images_seen"]) for _, metadata in stored]
    factors = post_hoc_factors(times, [metadata["ema_std"] for _, metadata in stored], end, std)
    last = load_tensors(stored[-1][0])[0]

    def weights(path: Path) -> dict[str, Tensor]:
        tensors = load_tensors(path)[0]
        if reason := misfit(last, tensors):
            raise DataError(f"{path}: a snapshot of another network ({reason})")
        return tensors

    state = combine((weights(path) for path, _ in stored), factors)
    recipe = stored[-1][1]["recipe"]
    save_tensors(out, state, {"recipe": recipe, "images_seen": end, "ema_std": std})
    return out
