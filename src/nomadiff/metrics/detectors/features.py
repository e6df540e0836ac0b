"""Run a detector over many images: batch by batch, on one process or several, once for each image set."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from nomadiff.data.mapped import chunks, content_hash, rows
from nomadiff.downloads import cache_folder
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import atomic_path, remove_leftovers
from nomadiff.metrics.detectors.protocol import Classifier, Detector
from nomadiff.metrics.weights import read_tensors
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = ["accuracy", "classify", "extract_features", "feature_cache", "images_sha256"]

CACHE_BYTES = 8 << 30  # what a cache may grow to; the features that were not used for longest go first


def images_sha256(images: Tensor) -> str:
    """SHA-256 of the pixels and shape of uint8 images ``(N, C, H, W)``: the same images give it from any file."""
    return content_hash(images)


def feature_cache() -> Path:
    """The folder in which verbs keep features of images, in the cache of downloads."""
    return cache_folder() / "features"


def extract_features(
    detector: Detector,
    images: Tensor | Iterable[Tensor],
    *,
    batch_size: int = 256,
    cache: str | Path | None = None,
    processes: Processes | None = None,
) -> Tensor:
    """Features of all images, with a progress bar.

    Args:
        detector: what computes the features, on its own device.
        images: uint8 ``(N, C, H, W)``, or an iterable of such batches: a sampler's output needs no file in between.
        batch_size: images to a batch, where ``images`` is one tensor.
        cache: folder where the features of these images by this detector are kept under the hashes of both. Streams,
            and detectors without a hash, are not cached. A damaged file is named in a warning and made anew; a folder
            that cannot be written is named likewise, and the work goes on. It is kept below 8 GiB.
        processes: share one tensor's images out over these processes; every one must call this with the same images,
            and gets all features.

    Returns:
        float32 ``(N, D)`` on the CPU.

    Raises:
        UsageError: there are no images, they are not what the detector reads, an image has no row of features, or
            one is not finite.
    """
    kept = None
    if cache is not None and isinstance(images, Tensor) and detector.sha256:
        identity = "\n".join((detector.name, detector.version, detector.sha256, images_sha256(images)))
        kept = Path(cache) / f"{detector.name}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        features = _read(kept, len(images))
        if processes is not None:  # all of them compute, or none does: processes may have different caches
            missing = torch.tensor(float(features is None), device=processes.device)
            features = None if float(processes.total(missing)) else features
        if features is not None:
            return features
    if processes is not None and processes.count > 1:
        if not isinstance(images, Tensor):
            raise UsageError("features of a stream cannot be shared out over processes: give one tensor")
        features = _shared_out(detector, images, batch_size, processes)
    else:
        features = _computed(detector, images, batch_size)
    if not bool(torch.isfinite(features).all()):
        row = int((~torch.isfinite(features).all(1)).nonzero()[0, 0])
        raise UsageError(f"detector {detector.name}: the features of image {row} are not finite")
    if kept is not None and (processes is None or processes.is_main):
        _write(kept, features)
    return features


def classify(classifier: Classifier, images: Tensor | Iterable[Tensor], *, batch_size: int = 256) -> Tensor:
    """Classes of all images: int64 ``(N,)`` on the CPU. Arguments and errors as in :func:`extract_features`."""
    return classifier.classes_of_features(extract_features(classifier, images, batch_size=batch_size)).cpu()


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Share of images ``(N, C, H, W)`` whose class is their label, int64 ``(N,)``.

    Raises:
        UsageError: there is not one label to an image, or as in :func:`extract_features`.
    """
    if labels.shape != (len(images),):
        raise UsageError(f"accuracy: {len(images)} images and labels {tuple(labels.shape)} do not belong together")
    return float((classify(classifier, images, batch_size=batch_size) == labels.cpu()).double().mean())


def _computed(
    detector: Detector, images: Tensor | Iterable[Tensor], batch_size: int, total: int = 0, show: bool = True
) -> Tensor:
    total = len(images) if isinstance(images, Tensor) else total
    batches: Iterator[Tensor] = iter(chunks(images, batch_size) if isinstance(images, Tensor) else images)
    parts = []
    with progress_bar(f"features ({detector.name})", total=total, show=show) as advance:
        for batch in batches:
            part = detector(batch)
            if part.ndim != 2 or len(part) != len(batch):
                raise UsageError(
                    f"detector {detector.name} made {tuple(part.shape)} of {len(batch)} images: it must be a row each"
                )
            parts.append(part.float().cpu())
            advance(len(batch))
    if not sum(len(part) for part in parts):
        raise UsageError(f"detector {detector.name}: no images given")
    return torch.cat(parts)


def _shared_out(detector: Detector, images: Tensor, batch_size: int, processes: Processes) -> Tensor:
    """Process ``r`` of ``n`` takes batches ``r, r + n, ...`` of those that one process would make: the same bits."""
    starts = range(0, len(images), batch_size)
    rounds = -(-len(starts) // processes.count)
    mine = starts[processes.rank :: processes.count] or starts[:1]  # whoever has none learns what features look like
    batches = (rows(images, torch.arange(start, min(start + batch_size, len(images)))) for start in mine)
    features = _computed(detector, batches, batch_size, len(mine) * batch_size, show=processes.is_main)
    padded = features.new_zeros(rounds * batch_size, features.shape[1])
    padded[: len(features)] = features  # only the last batch of all is smaller
    everything = processes.gather(padded.to(processes.device)).cpu()
    in_order = everything.reshape(processes.count, rounds, batch_size, -1).transpose(0, 1)
    return in_order.reshape(rounds * processes.count * batch_size, -1)[: len(images)].contiguous()


def _write(path: Path, features: Tensor) -> None:
    from safetensors.torch import save_file

    try:
        with atomic_path(path) as temporary:
            save_file({"features": features.contiguous()}, temporary, {"sha256": _content_hash(features)})
    except NomadiffError as error:
        warnings.warn(f"{error}; the features are not kept", stacklevel=3)
        return
    used = 0
    for file in sorted(path.parent.glob("*.safetensors"), key=_last_use, reverse=True):
        with suppress(OSError):  # another process may tidy up at the same time
            used += file.stat().st_size
            if used > CACHE_BYTES and file != path:
                file.unlink()


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path, count: int) -> Tensor | None:
    """The features kept at ``path``; None where there are none, or (with a warning) the file is damaged."""
    remove_leftovers(path.parent)  # here as well: where nothing is missing nothing is written, which would do it
    if not path.exists():
        return None
    from safetensors import safe_open

    try:
        features = read_tensors(path)["features"]
        with safe_open(path, "pt") as handle:
            expected = (handle.metadata() or {}).get("sha256")
    except (DataError, KeyError) as error:
        reason = str(error)
    else:
        if features.ndim == 2 and len(features) == count and _content_hash(features) == expected:
            with suppress(OSError):
                os.utime(path)  # last used now, for the removal of old files
            return features
        reason = f"{path}: its content does not match its hash"
    warnings.warn(f"{reason}; the features are computed again", stacklevel=3)
    return None


def _content_hash(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().data).hexdigest()
