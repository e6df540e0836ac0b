"""The files that recipes read from ``--data``, and what is said of those that are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors.cifar10_resnet56 import WEIGHTS
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.protocol import Detector

__all__ = [
    "CIFAR10",
    "CIFAR10_TEST",
    "FFHQ",
    "PHOTOGRAPHS",
    "PHOTOGRAPHS_TEST",
    "STABLE_DIFFUSION",
    "NeededFile",
    "detector_named",
    "file_lines",
    "photograph_weights",
    "require_files",
]


@dataclass(frozen=True)
class NeededFile:
    """A file that a recipe reads, and where it comes from."""

    name: str
    origin: str

    def path(self, data: Path | None) -> Path:
        """Where it is in the folder of the data; where that is not known yet, below ``DATA``."""
        return (data or Path("DATA")) / self.name

    def is_in(self, data: Path | None) -> bool:
        """Whether the folder has it."""
        return data is not None and self.path(data).exists()


CIFAR10 = NeededFile("cifar10-32x32-train.zip", "CIFAR-10's 50,000 training images as an EDM-layout zip")
CIFAR10_TEST = NeededFile("cifar10-32x32-test.zip", "CIFAR-10's 10,000 test images as an EDM-layout zip")
PHOTOGRAPHS = NeededFile("real-train-10k.zip", "10,000 real training images of CIFAKE, labels 0-9 (EDM layout)")
PHOTOGRAPHS_TEST = NeededFile("real-test-10k.zip", "10,000 real test images of CIFAKE, labels 0-9 (EDM layout)")
STABLE_DIFFUSION = NeededFile(
    "sd14-20k.zip", "20,000 images of CIFAKE by Stable Diffusion 1.4, labels 0-9 (EDM layout)"
)
FFHQ = NeededFile("ffhq-64x64.zip", "FFHQ's 70,000 faces resized to 64x64 by EDM's dataset tool")


def file_lines(files: Iterable[NeededFile], data: Path | None) -> list[str]:
    """A line a file: found or missing, and where it comes from.

    Raises:
        UsageError: none are needed, and there is a folder.
    """
    return [
        f"{'found  ' if file.is_in(data) else 'missing'}  {file.name}: {file.origin}" for file in _each(files, data)
    ]


def require_files(recipe: str, files: Iterable[NeededFile], data: Path | None) -> None:
    """Refuse to start without the files, or with a folder that nothing is read from.

    Raises:
        DataError: some are missing; it names them.
        UsageError: none are needed, and there is a folder.
    """
    if missing := [file.name for file in _each(files, data) if not file.is_in(data)]:
        where = data if data is not None else "--data FOLDER"
        raise DataError(f"{recipe} needs {', '.join(missing)} in {where}; --dry-run says where they come from")


def _each(files: Iterable[NeededFile], data: Path | None) -> list[NeededFile]:
    needed = list(dict.fromkeys(files))
    if data is not None and not needed:
        raise UsageError("this scale of the recipe reads no files: leave --data out")
    return needed


def detector_named(name: str, data: Path | None, device: str | None = None) -> Detector:
    """The detector of a recipe; that of photographs takes its weights from ``--data`` if they are there."""
    weights = photograph_weights(data) if name == "cifar10-resnet56" else None
    return load_detector(name, weights=weights, device=device or "cpu")


def photograph_weights(data: Path | None) -> str | None:
    """The weights of the classifier that judges photographs, if ``--data`` has them; None where they are fetched."""
    path = (data or Path("DATA")) / PurePosixPath(WEIGHTS.url).name
    return str(path) if path.exists() else None
