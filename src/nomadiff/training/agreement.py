"""Several processes train one model: they must have one recipe, the same data and one folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import torch

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.processes import Processes
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder

__all__ = ["part_to_keep", "require_agreement"]

_PATIENCE = 5.0  # seconds until a network file system shows what another machine has written


def require_agreement(
    config: RunConfig, mix: SourceMix, folder: RunFolder, images_seen: int, processes: Processes
) -> None:
    """Stop every process at once where training would hang or mix runs. All of them must call this.

    Args:
        config: this process' recipe.
        mix: its data.
        folder: its run folder; the main process has claimed it.
        images_seen: how far the run is that this process has found there.
        processes: the processes.

    Raises:
        UsageError: one was started with other options or data, or does not see the folder of the main process.
    """
    names = ("content_hash", "labels_hash", "floors_hash")
    data = [[source.get(name) for name in names] for source in mix.provenance]
    recipe = [config.to_dict(), data]
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).digest()[:7]  # fits an int64
    facts = [int.from_bytes(digest), int(_is_claimed(folder)), images_seen]
    told = processes.gather(torch.tensor([facts], device=processes.device)).tolist()
    for rank, (recipe_told, claimed, seen) in enumerate(told):
        if recipe_told != told[0][0]:
            raise UsageError(
                f"process {rank} was started with other options or images than process 0: "
                "give every process the same command and the same data"
            )
        if not claimed or seen != told[0][2]:
            found = f"a run at {seen:,} images, process 0 one at {told[0][2]:,}" if claimed else "no run there"
            raise UsageError(
                f"{folder.path}: process {rank} does not see the folder of process 0 (it finds {found}): "
                "--out must be a folder that all machines share"
            )


def part_to_keep(facts: Mapping[str, Any], folder: RunFolder, count: int, batch: int) -> int | None:
    """In how large parts to work on a batch, for a run to go on as the processes that began it would have gone on.

    Args:
        facts: of the state: how many ``processes`` wrote it, and the images of a ``part``.
        folder: the run folder, for messages.
        count: processes there are now.
        batch: images of a batch.

    Returns:
        Images of a part; None where a state of before this was written does not say.

    Raises:
        UsageError: so many processes cannot make these parts.
    """
    processes, part = facts.get("processes"), facts.get("part")
    if type(part) is not int or part < 1:
        return None
    if processes == count:
        return part  # with --microbatch auto another would fit now
    if batch // count % part:
        fit = [str(number) for number in range(1, batch + 1) if batch % number == 0 and batch // number % part == 0]
        raise UsageError(
            f"{folder.path}: {processes} processes trained it in parts of {part} images, which {count} cannot make of "
            f"{batch // count} images each, so the result would be another: start {' or '.join(fit) or processes}"
        )
    return part


def _is_claimed(folder: RunFolder) -> bool:
    end = time.monotonic() + _PATIENCE
    while not (folder.path / "config.json").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
