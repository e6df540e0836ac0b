"""Self-consuming loops of images: their settings, and the loops with their images open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.reading import Reading
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.loops.images import ImageAlgorithm, image_algorithm
from nomadiff.loops.loop import KINDS, AutophagousLoop
from nomadiff.loops.real_images import RealImages
from nomadiff.methods.dm import DM
from nomadiff.metrics.detectors import DEFAULT_DETECTOR, Detector, load_detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.fdr import FDR
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.plain import plain_settings, with_tuples
from nomadiff.processes import join_processes
from nomadiff.training.presets import AnyPreset, proposed_preset
from nomadiff.training.run_folder import RunFolder

__all__ = ["ImageLoop", "OpenLoop"]

_METRICS = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True, kw_only=True)
class ImageLoop(Reading):
    """Loops to run: every algorithm once for every seed, all on the same real images of that seed.

    Attributes:
        real: Real images: a folder, zip, npz or npy file, hf:NAME of a hub data set, or digits:pool.
        reference: Held-out real images that no model sees.
        out: Folder for loops, metrics.json, madness.json and report.html.
        algorithms: standard, sims, neon, source-guidance, casd (own samples as source 1), casd-provenance (told what is
            synthetic) or real-only.
        kind: synthetic-augmentation, fully-synthetic, fresh-data (new real images in every generation) or accumulation
            (all earlier generations are kept).
        generations: How many, at least 2; the first learns from real images alone.
        real_count: Real images in a training set, drawn anew for every seed; by default all of them (fresh-data: an
            equal part for every generation).
        synthetic_count: Images each generation makes for its successors; by default as many as real ones.
        preset: Network and training to start from (see nomadiff presets); one that suits the images and the device by
            default.
        changes: Training options that differ from the preset's.
        weight: Guidance weight of sims, neon and source-guidance; 1 by default.
        warm_start: Train every generation from its predecessor's weights instead of from scratch.
        seeds: Seeds. One loop of every algorithm is run for each.
        count: Samples every generation is judged by.
        detector: Feature space of the metrics: wavelets, pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        gpus_per_job: GPUs that compute one loop together, through torchrun; on a CPU as many processes.
        device: Where to compute.
        command: The command line, printed in the report.
    """

    real: str | ImageSource
    reference: str | ImageSource
    out: Path
    algorithms: tuple[str, ...] = ("standard", "sims")
    kind: str = "synthetic-augmentation"
    generations: int = 8
    real_count: int | None = None
    synthetic_count: int | None = None
    preset: AnyPreset | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    warm_start: bool = False
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    count: int = 1000
    detector: str | Detector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    resolution: int | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
    workers: int | None = None
    gpus_per_job: int = 1
    device: str | None = None
    command: str = ""

    def to_dict(self) -> dict[str, Any] | None:
        """Its settings as plain values, for other processes; None where some of them are objects in memory."""
        return plain_settings("loop", {name: value for name, value in vars(self).items() if name != "out"})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], out: Path) -> ImageLoop:
        """The loops that :meth:`to_dict` gave, in a folder.

        Raises:
            DataError: the values are no settings of loops.
        """
        try:
            return cls(**with_tuples(values) | {"out": out})
        except TypeError as error:
            raise DataError(f"{out}: not the settings of loops ({error})") from error


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
        self.reference_set  # noqa: B018 - made now: a detector that cannot read these images is an error before the loop

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
                "preset": loop.preset if isinstance(loop.preset, str) else self.recipe.network.architecture,
                "changes": _without_seed(loop.changes),
                "real_sha256": self.real.content_hash,
                "reference": self.reference_set.meta,
            },
        )

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
