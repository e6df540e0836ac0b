"""Self-consuming loops of images with their images open and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomadiff.data.image_source import spec_text
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.loops.images import ImageAlgorithm, image_algorithm
from nomadiff.loops.loop import KINDS, AutophagousLoop
from nomadiff.loops.real_images import RealImages
from nomadiff.methods.dm import DM
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.distance_names import FDR, distance_name
from nomadiff.metrics.manifold import check_count
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.processes import join_processes
from nomadiff.training.presets import proposed_preset
from nomadiff.training.run_folder import RunFolder
from nomadiff.workflows.held_out import refuse_shared
from nomadiff.workflows.image_loop import ImageLoop

__all__ = ["OpenLoop"]

_METRICS = ("precision", "recall", "density", "coverage")


class OpenLoop:
    """Loops (:class:`ImageLoop`) with its images open and everything about it checked.

    Raises:
        UsageError, DataError: whatever is wrong with it, before anything is trained.
    """

    def __init__(self, loop: ImageLoop) -> None:
        self.given = self.loop = loop
        self.kind = loop.kind.replace("-", " ")
        if self.kind not in KINDS:
            raise UsageError(f"no loop is called '{loop.kind}': choose one of {', '.join(map(_hyphened, KINDS))}")
        if loop.generations < 2:
            raise UsageError(f"a loop that can go MAD needs at least two generations, got {loop.generations}")
        if not loop.algorithms or not loop.seeds or len(set(loop.seeds)) < len(loop.seeds):
            raise UsageError("a loop needs an algorithm and seeds that differ")
        kinds = {name: image_algorithm(name) for name in dict.fromkeys(loop.algorithms)}
        for name, algorithm in kinds.items():
            if algorithm.needs_real and self.kind == "fully synthetic":
                raise UsageError(f"{name} has nothing real to learn from in a fully synthetic loop")
        if loop.weight is not None and not any(algorithm.guided for algorithm in kinds.values()):
            raise UsageError(f"{', '.join(kinds)}: no guidance to give the weight {loop.weight:g} to")
        if loop.preset is None:
            first = loop.read(loop.real, "real", subset="first:1")
            device = join_processes(loop.device).device
            loop = self.loop = replace(loop, preset=proposed_preset(first.resolution, first.channels, device))
        self.algorithms = {name: self._made(algorithm) for name, algorithm in kinds.items()}
        self.processes = join_processes(loop.device)
        self.real = loop.read(loop.real, "real")
        self.held_out = loop.read(loop.reference, "reference")
        fresh = self.kind == "fresh data"
        self.real_count = loop.real_count or max(1, len(self.real) // (loop.generations if fresh else 1))
        self.synthetic_count = self.real_count if loop.synthetic_count is None else loop.synthetic_count
        self.draws = {seed: self._real_images(seed, fresh) for seed in loop.seeds}
        self.mix = SourceMix(self.real)
        assert loop.preset is not None
        self.recipe = DM(loop.preset, **_without_seed(loop.changes)).recipe(self.mix)
        refuse_shared(
            self.held_out,
            self.real,
            "in the real set too",
            most="against it a model that copies looks perfect. Give held-out real images",
            some="copies of them look perfect",
        )
        # made now: a detector that cannot read these images is an error before the loop
        check_count(loop.count, self.reference_set.k, "--count")

    def _made(self, algorithm: type[ImageAlgorithm]) -> ImageAlgorithm:
        loop = self.loop
        assert loop.preset is not None
        weight = loop.weight if algorithm.guided else None
        return algorithm(loop.preset, weight=weight, device=loop.device, **_without_seed(loop.changes))

    def _real_images(self, seed: int, fresh: bool) -> RealImages:
        loop = self.loop
        return RealImages(
            self.real.pixels,
            seed=seed,
            count=self.real_count,
            generations=loop.generations,
            fresh=fresh,
            name=spec_text(loop.real),
        )

    @cached_property
    def reference_set(self) -> ReferenceSet:
        """The reference that generations are compared with."""
        loop = self.loop
        detector = load_detector(
            loop.detector, weights=loop.detector_weights, device=join_processes(loop.device).device
        )
        if self.held_out.images.shape[1:] != self.real.images.shape[1:]:
            raise UsageError(
                f"reference {spec_text(loop.reference)} has images of {tuple(self.held_out.images.shape[1:])}, "
                f"the real set of {tuple(self.real.images.shape[1:])} (channels, height, width); pass --resolution"
            )
        return ReferenceSet(self.held_out.pixels, detector=detector)

    @cached_property
    def floor(self) -> dict[str, float]:
        """What as many fresh real images as generations are judged by score; nothing where the reference is small."""
        count, reference = self.loop.count, self.reference_set
        return reference.floor(count=count) if reference.has_floor(count) else {}

    @property
    def distance(self) -> str:
        """Name of the distance to the real distribution."""
        return distance_name(self.reference_set.detector)

    def folder_of(self, algorithm: str, seed: int) -> Path:
        """Folder of one loop."""
        return self.loop.out / "loops" / f"{algorithm}-seed{seed}"

    def _first_base(self, name: str, seed: int) -> RunFolder:
        """The network that an algorithm's first generation begins with."""
        return RunFolder(self.folder_of(name, seed) / "generation-0001" / "model" / self.algorithms[name].base_folder)

    def _share_first_base(self, name: str, seed: int) -> None:
        """Take the first generation's base from the first algorithm: same images and same seed, the same network."""
        mine = self._first_base(name, seed)
        first = self._first_base(next(iter(self.algorithms)), seed)
        if self.processes.is_main and first.model_path.exists() and not mine.model_path.exists():
            first.copy_to(mine.path)
        self.processes.barrier()

    def loop_of(self, name: str, seed: int) -> AutophagousLoop:
        """The loop of an algorithm on the real images of a seed."""
        loop, algorithm = self.loop, self.algorithms[name]
        return AutophagousLoop(
            algorithm,
            self.kind,
            real=self.draws[seed],
            real_count=self.real_count,
            synthetic_count=self.synthetic_count,
            distances=_measures(self.reference_set),
            evaluation_count=loop.count,
            warm_start=loop.warm_start,
            processes=self.processes,
            description={
                "algorithm": name,
                "weight": algorithm.improvement.weight,
                "preset": loop.preset if isinstance(loop.preset, str) else self._preset_facts(),
                "changes": _without_seed(loop.changes),
                "real_sha256": self.real.content_hash,
                "reference": self.reference_set.meta,
            },
        )

    def _preset_facts(self) -> dict[str, Any]:
        """What tells a preset without a name from others."""
        facts = self.recipe.to_dict()
        return {name: facts[name] for name in ("network", "training", "sampler", "sigma_data")}

    def run(self, name: str, seed: int, generations: int) -> list[dict[str, Any]]:
        """One loop, or what is not done of it."""
        self._share_first_base(name, seed)
        return self.loop_of(name, seed).run(generations, seed, self.folder_of(name, seed))


def _measures(reference: ReferenceSet) -> dict[str, Callable[[np.ndarray], float]]:
    """The metrics as the loop asks for them, one by one; features are extracted once for all of them."""
    last: list[tuple[np.ndarray, dict[str, Any]]] = []

    def scores(samples: np.ndarray) -> dict[str, Any]:
        if not last or last[0][0] is not samples:
            last[:] = [(samples, reference.evaluate(torch.from_numpy(samples)))]
        return last[0][1]

    ratio = (FDR,) if reference.meta["reference_count"] >= 4 else ()  # else it cannot be told
    names = (distance_name(reference.detector), *ratio, *_METRICS)
    return {name: lambda samples, name=name: scores(samples)[name] for name in names}  # type: ignore[misc]


def _without_seed(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name != "seed"}


def _hyphened(kind: str) -> str:
    return kind.replace(" ", "-")
