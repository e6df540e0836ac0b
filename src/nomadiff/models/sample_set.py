"""Draw a sample set into a file, batch by batch: a killed process loses one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.part_folder import deliver, is_delivered, part_folder
from nomadiff.data.writing import write_images
from nomadiff.files import atomic_path
from nomadiff.models.drawable import Drawable
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar

__all__ = ["write_sample_set"]

_PREVIEW = 64  # images


def write_sample_set(
    model: Drawable,
    manifest_of: Callable[..., dict[str, Any]],
    out: Path,
    count: int,
    seed: int,
    group: Processes,
    preview: Callable[[Tensor], None] | None,
    options: dict[str, Any],
) -> None:
    """:meth:`nomadiff.models.model.Model.write_samples`; the main process alone touches files."""
    if not group.is_main:
        _draw(model, None, 0, count, seed, group, options)
        group.barrier()
        return
    classes = {"source": options.get("source", 0), **{name: options.get(name) for name in ("class_label", "classes")}}
    how = {"sampler": options.get("sampler"), "precision": options.get("precision", "auto")}
    manifest = manifest_of(count, seed, **how, **classes)
    recipe = {name: value for name, value in manifest.items() if name != "versions"}
    with part_folder(out, {**recipe, "class_label": options.get("class_label")}) as part:
        delivered = is_delivered(out)
        kept = count if delivered else sum(map(len, _batches(part)))
        _draw(model, part, kept, count, seed, group, options)
        if preview is not None and not delivered:
            preview(_first(part))
        labels = model.drawn_classes(range(count), seed, **classes)

        def write(path: Path) -> None:
            names = model.class_names
            write_images(path, _batches(part), count, labels=labels, class_names=names, manifest=manifest)

        deliver(out, write)
    group.barrier()


def _draw(
    model: Drawable, part: Path | None, kept: int, count: int, seed: int, group: Processes, options: dict[str, Any]
) -> None:
    """Draw what is missing. A continued set has the batches of an unbroken one, so it equals it bit for bit."""
    done = int(group.total(torch.tensor(kept, device=group.device)))  # the main process knows it, the others add 0
    batches = model.sample_batches(count - done, seed, first=done, processes=group, **options)
    with progress_bar(f"sample {model.known.method}", total=count, done=done, show=group.is_main) as advance:
        for batch in batches:
            if part:
                with atomic_path(part / f"{done:09d}.npy") as temporary, open(temporary, "wb") as handle:
                    np.save(handle, batch.numpy())
            done += len(batch)
            advance(len(batch))


def _batches(part: Path) -> Iterator[Tensor]:
    """The batches that are kept, each named by its first image, up to the first that is missing or torn."""
    done = 0
    while (path := part / f"{done:09d}.npy").exists():
        try:
            batch = torch.from_numpy(np.load(path))
        except (OSError, ValueError, EOFError, TypeError):
            return
        yield batch
        done += len(batch)


def _first(part: Path) -> Tensor:
    found: list[Tensor] = []
    for batch in _batches(part):
        found.append(batch[: _PREVIEW - sum(map(len, found))])
        if sum(map(len, found)) == _PREVIEW:
            break
    return torch.cat(found)
