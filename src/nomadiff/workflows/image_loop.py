"""The settings of self-consuming loops of images, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomadiff.data.reading import AnyImages, Reading
from nomadiff.errors import DataError
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR, AnyDetector
from nomadiff.plain import plain_settings, with_tuples

if TYPE_CHECKING:
    from nomadiff.training.presets import AnyPreset
else:  # as data/reading.py does
    AnyPreset = Any

__all__ = ["ImageLoop"]


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
        workers: Loops run side by side; by default one a GPU, or one a CPU core. 0 writes the plan, for work.
        gpus_per_job: GPUs that compute one loop together, through torchrun; on a CPU as many processes.
        device: Where to compute.
        command: The command line, printed in the report.
    """

    real: AnyImages
    reference: AnyImages
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
    detector: AnyDetector = DEFAULT_DETECTOR
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
