"""Encode a set of images into latents once, for training EDM2's networks or any other model of latents."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.latents import LatentSpace, read_space, write_latents
from nomadiff.data.lazy_images import LazyImages, open_lazily
from nomadiff.data.part_folder import deliver, is_delivered, part_folder, part_of
from nomadiff.errors import UsageError
from nomadiff.files import atomic_path
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = ["encode_set"]

_SHARD = 1000  # images encoded between two files that a continued job finds


def encode_set(
    source: str | Path,
    out: str | Path,
    autoencoder: Autoencoder,
    *,
    space: LatentSpace | None = None,
    resolution: int | None = None,
    skip_unreadable: bool = False,
    processes: Processes | None = None,
) -> LatentSpace:
    """Encode a set of images into the zip that EDM2's training reads (:func:`~nomadiff.data.latents.write_latents`).

    Labels and manifest come along: a synthetic set stays one. Work goes on in ``<out>.part``; after an interruption run
    the same call again. Images that were replaced in the meantime are encoded again.

    Args:
        source: images, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens; a folder or zip need not
            fit into memory.
        out: the zip; must be new.
        autoencoder: what encodes.
        space: the scale to record, of a set that this one is to be mixed with. None takes EDM2's for EDM2's autoencoder
            and measures any other's on this set.
        resolution: crop and resize the images to this many pixels first.
        skip_unreadable: leave out images that cannot be read, and name them.
        processes: share the work among these; the main one writes ``out``.

    Returns:
        The space of the latents.

    Raises:
        UsageError: ``out`` is taken or no zip, another process makes it, its ``.part`` holds another job half done, or
            the images do not fit the autoencoder.
        DataError: the images cannot be read.
        Interrupted: Ctrl-C; what is done is kept.
    """
    out, part = Path(out), part_of(Path(out))
    if out.suffix.lower() != ".zip":
        raise UsageError(f"{out}: latents are written to a .zip")
    if space is None and autoencoder.spec == LatentSpace().vae:
        space = LatentSpace()
    if space is not None:
        space = _fitting(space, autoencoder)
    group = processes or Processes(0, 1, torch.device("cpu"))
    with open_lazily(source, resolution=resolution, skip_unreadable=skip_unreadable) as images:
        recipe = {
            "source": str(Path(source).resolve()),
            "count": len(images),
            "resolution": resolution,
            "vae_sha256": autoencoder.sha256,
            "space": None if space is None else space.to_dict(),
        }
        with part_folder(out, recipe) if group.is_main else nullcontext():
            group.barrier()
            if is_delivered(out):
                found = read_space(out)
            else:
                _encode(images, part, autoencoder, group)
                group.barrier()
                found = space or _measured(part, autoencoder)
            if group.is_main:

                def write(path: Path) -> None:
                    batches = (torch.from_numpy(np.load(shard)) for shard in _shards(part))
                    count = len(images)
                    labels, names, manifest = images.labels, images.class_names, images.manifest
                    write_latents(
                        path, batches, count, space=found, labels=labels, class_names=names, manifest=manifest
                    )

                deliver(out, write)
            group.barrier()
    return found


def _fitting(space: LatentSpace, autoencoder: Autoencoder) -> LatentSpace:
    """The space, with this autoencoder's address and hash, if it is the space's own."""
    known = space.vae_sha256 is not None
    if (autoencoder.channels, autoencoder.factor) != (space.channels, space.factor) or (
        known and space.vae_sha256 != autoencoder.sha256
    ):
        raise UsageError(f"{autoencoder.spec}: another autoencoder than that of the latents to be like ({space.vae})")
    # without a hash of the weights only the name says that two sets belong together: keep it
    return replace(space, vae=autoencoder.spec if known else space.vae, vae_sha256=autoencoder.sha256)


def _encode(images: LazyImages, part: Path, autoencoder: Autoencoder, group: Processes) -> None:
    """Encode what is missing of this process' shards."""
    starts = range(0, len(images), _SHARD)[group.rank :: group.count]
    stops = {start: min(start + _SHARD, len(images)) for start in starts}
    missing = [start for start in starts if not _is_kept(images, part, start, stops[start])]
    total, left = (sum(stops[start] - start for start in some) for some in (starts, missing))
    with progress_bar("encode", total=total, done=total - left, show=group.is_main) as advance:
        for start in missing:
            path = part / _shard_name(images, start, stops[start])  # before encoding: what changes later is noticed
            found = []
            for first in range(start, stops[start], autoencoder.batch_size):
                last = min(first + autoencoder.batch_size, stops[start])
                found.append(autoencoder.encode(images.batch(first, last)))
                advance(last - first)
            with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                np.save(handle, torch.cat(found).numpy())


def _is_kept(images: LazyImages, part: Path, start: int, stop: int) -> bool:
    """Whether these images are encoded already; shards of images that were replaced since are deleted."""
    for shard in part.glob(f"{start:09d}-*.npy"):
        if shard.name == _shard_name(images, start, stop):
            try:
                np.load(shard, mmap_mode="r")
            except (OSError, ValueError, EOFError):
                break  # torn: encoded again
            return True
        with warnings.catch_warnings(action="always"):  # Pillow's are silenced while images are read
            warnings.warn(f"images {start:,} to {stop - 1:,} have changed: they are encoded again", stacklevel=2)
        shard.unlink()
    return False


def _shard_name(images: LazyImages, start: int, stop: int) -> str:
    return f"{start:09d}-{images.digest(start, stop)}.npy"


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
