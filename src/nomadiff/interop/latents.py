"""A set of images made latents, once: what EDM2's networks, and any other model of latents, are trained on."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.latents import LatentSpace, write_latents
from nomadiff.data.lazy_images import LazyImages, open_lazily
from nomadiff.data.writing import refuse_existing
from nomadiff.errors import Interrupted, UsageError
from nomadiff.files import atomic_path
from nomadiff.interop.part_folder import claim, part_of
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.training.run_folder import RunFolder

__all__ = ["encode_set"]

_SHARD = 1000  # images encoded between two files that a continued job finds


def encode_set(
    source: str | Path,
    out: str | Path,
    autoencoder: Autoencoder,
    *,
    space: LatentSpace | None = None,
    resolution: int | None = None,
    processes: Processes | None = None,
) -> LatentSpace:
    """Encode a set of images into the zip that EDM2's training reads (:func:`~nomadiff.data.latents.write_latents`).

    Labels and manifest come along: a synthetic set stays one. Work goes on in ``<out>.part``; after an interruption run
    the same call again.

    Args:
        source: images, anything :meth:`~nomadiff.data.sources.ImageSource.open` opens; a folder or zip need not fit
            into memory.
        out: the zip; must be new.
        autoencoder: what encodes.
        space: the scale to record, of a set that this one is to be mixed with. None takes EDM2's for EDM2's autoencoder
            and measures any other's on this set.
        resolution: crop and resize the images to this many pixels first.
        processes: share the work among these; the main one writes ``out``.

    Returns:
        The space of the latents.

    Raises:
        UsageError: ``out`` is taken or no zip, holds another job half done, or the images do not fit the autoencoder.
        DataError: the images cannot be read.
        Interrupted: Ctrl-C; what is done is kept.
    """
    out, part = Path(out), part_of(Path(out))
    if out.suffix.lower() != ".zip":
        raise UsageError(f"{out}: latents are written to a .zip")
    refuse_existing(out)
    if space is None and autoencoder.spec == LatentSpace().vae:
        space = LatentSpace()
    if space is not None:
        space = _fitting(space, autoencoder)
    group = processes or Processes(0, 1, torch.device("cpu"))
    try:
        with open_lazily(source, resolution=resolution) as images:
            recipe = {
                "source": str(Path(source).resolve()),
                "count": len(images),
                "resolution": resolution,
                "vae_sha256": autoencoder.sha256,
                "space": None if space is None else space.to_dict(),
            }
            with RunFolder(part).lock() if group.is_main else nullcontext():
                if group.is_main:
                    claim(part, recipe)
                group.barrier()
                _encode(images, part, autoencoder, group)
                group.barrier()
                space = space or _measured(part, autoencoder)
                if group.is_main:
                    batches = (torch.from_numpy(np.load(path)) for path in _shards(part))
                    count = len(images)
                    write_latents(out, batches, count, space=space, labels=images.labels, manifest=images.manifest)
                group.barrier()
        if group.is_main:
            shutil.rmtree(part)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped, what is done is kept in {part}: run the same command again to go on", signal.SIGINT
        ) from None
    return space


def _fitting(space: LatentSpace, autoencoder: Autoencoder) -> LatentSpace:
    """The space with the autoencoder at hand, if that is the space's."""
    known = space.vae_sha256 is not None
    if (autoencoder.channels, autoencoder.factor) != (space.channels, space.factor) or (
        known and space.vae_sha256 != autoencoder.sha256
    ):
        raise UsageError(f"{autoencoder.spec}: another autoencoder than that of the latents to be like ({space.vae})")
    # where nobody looked at the weights the name is what tells that two sets belong together: it stays
    return replace(space, vae=autoencoder.spec if known else space.vae, vae_sha256=autoencoder.sha256)


def _encode(images: LazyImages, part: Path, autoencoder: Autoencoder, group: Processes) -> None:
    """Encode what is missing of this process' shards."""
    starts = list(range(0, len(images), _SHARD))[group.rank :: group.count]
    missing = [start for start in starts if not (part / f"{start:09d}.npy").exists()]
    lengths = [min(_SHARD, len(images) - start) for start in missing]
    done = sum(min(_SHARD, len(images) - start) for start in starts) - sum(lengths)
    with progress_bar("encode", total=done + sum(lengths), done=done, show=group.is_main) as advance:
        for start, length in zip(missing, lengths):
            found = []
            for first in range(start, start + length, autoencoder.batch_size):
                last = min(first + autoencoder.batch_size, start + length)
                found.append(autoencoder.encode(images.batch(first, last)))
                advance(last - first)
            with atomic_path(part / f"{start:09d}.npy") as temporary, open(temporary, "wb") as handle:
                np.save(handle, torch.cat(found).numpy())


def _shards(part: Path) -> list[Path]:
    return sorted(part.glob("[0-9]*.npy"))


def _measured(part: Path, autoencoder: Autoencoder) -> LatentSpace:
    """The space with mean and standard deviation, by channel, of what would be drawn from the shards."""
    count, first, second = 0, torch.zeros(autoencoder.channels).double(), torch.zeros(autoencoder.channels).double()
    for mean, spread in _moments(part):
        count += mean.numel() // mean.shape[1]
        first += mean.sum((0, 2, 3))
        second += (mean**2 + spread**2).sum((0, 2, 3))
    means = first / count
    stds = (second / count - means**2).sqrt()
    if not bool(torch.isfinite(stds).all()) or float(stds.min()) <= 0:
        raise UsageError("these images have no spread in latent space: too few, or all alike")
    return autoencoder.space(tuple(means.tolist()), tuple(stds.tolist()))


def _moments(part: Path) -> Iterator[tuple[Tensor, Tensor]]:
    for path in _shards(part):
        mean, spread = torch.from_numpy(np.load(path)).double().chunk(2, dim=1)
        yield mean, spread
