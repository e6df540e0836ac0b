"""What the CASD recipes share: the four scales, and their data: digits, photographs, the paper's images.

==========  ========================================================================================================
``smoke``   seconds on digits, in CI: shows that the recipe runs, nothing else
``small``   within an hour on two cores, on digits
``medium``  32x32 photographs and images of real generators: hours on two cores, minutes on a GPU; needs ``--data``
``paper``   the paper's configuration; needs its files in ``--data`` and many GPU hours (``--dry-run`` prints both)
==========  ========================================================================================================

The photographs are CIFAR-10's. They come from CIFAKE (Bird and Lotfi 2023), which has images of the same classes by
Stable Diffusion 1.4 beside them and stores both as the same JPEG: with CIFAR-10's own PNGs, the codec would tell real
from synthetic as well as the generator does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from nomadiff.data.mix_spec import MixSpec
from nomadiff.metrics.detectors.cifar10_resnet56 import WEIGHTS
from nomadiff.reproduce.study import NeededFile
from nomadiff.workflows.arms import Arm
from nomadiff.workflows.compare import Comparison

__all__ = [
    "CIFAR10",
    "CIFAR10_TEST",
    "FFHQ",
    "PHOTOGRAPHS",
    "PHOTOGRAPHS_TEST",
    "STABLE_DIFFUSION",
    "close_generator",
    "digits_comparison",
    "paper_comparison",
    "photographs_comparison",
    "synthetic_file",
]

CIFAR10 = NeededFile("cifar10-32x32-train.zip", "CIFAR-10's 50,000 training images as an EDM-layout zip")
CIFAR10_TEST = NeededFile("cifar10-32x32-test.zip", "CIFAR-10's 10,000 test images as an EDM-layout zip")
PHOTOGRAPHS = NeededFile("real-train-10k.zip", "10,000 real training images of CIFAKE, labels 0-9 (EDM layout)")
PHOTOGRAPHS_TEST = NeededFile("real-test-10k.zip", "10,000 real test images of CIFAKE, labels 0-9 (EDM layout)")
STABLE_DIFFUSION = NeededFile(
    "sd14-20k.zip", "20,000 images of CIFAKE by Stable Diffusion 1.4, labels 0-9 (EDM layout)"
)
FFHQ = NeededFile("ffhq-64x64.zip", "FFHQ's 70,000 faces resized to 64x64 by EDM's dataset tool")


def synthetic_file(name: str, origin: str) -> NeededFile:
    """A file of at least 10,000 generated images."""
    return NeededFile(name, f"10,000 or more images: {origin}")


def digits_comparison(scale: str, mix: MixSpec, seeds: Sequence[int], **options) -> Comparison:
    """A comparison on digits: CI's in seconds at "smoke", the demo's training at "small"."""
    smoke = scale == "smoke"
    base = Comparison(
        mix=mix,
        reference="digits:reference",
        out=Path(),
        preset="digits",
        seeds=tuple(seeds[:1] if smoke else seeds),
        changes={"budget": 1_024, "warmup": 256} if smoke else {"budget": 100_000},
        count=100 if smoke else 1000,
        detector="digits",
        workers=1 if smoke else None,  # starting a process costs more than these models
        device="cpu",
    )
    return replace(base, **options)


def photographs_comparison(
    data: Path, mix: MixSpec, seeds: Sequence[int], reference: NeededFile = PHOTOGRAPHS_TEST, **options
) -> Comparison:
    """A comparison on 32x32 photographs, judged by held-out ones in the features of a CIFAR-10 classifier.

    The classifier's weights are read from ``data`` if they are there, and fetched otherwise.
    """
    weights = data / PurePosixPath(WEIGHTS.url).name
    base = Comparison(
        mix=mix,
        reference=str(data / reference.name),
        out=Path(),
        preset="compact32",
        seeds=tuple(seeds),
        count=1000,
        detector="cifar10-resnet56",
        detector_weights=str(weights) if weights.exists() else None,
        notes=(
            f"Real images: CIFAR-10's photographs ({Path(str(mix.real)).name}). The distance is taken in the features "
            "of a CIFAR-10 classifier (64 values); it is not FID.",
        ),
    )
    return replace(base, **options)


def close_generator(data: Path) -> Arm:
    """A source that is close to the real images: a model of all of CIFAR-10's training images, 20,000 samples of it."""
    mix = MixSpec(real=str(data / CIFAR10.name))
    return Arm(method="dm", source="", seed=100, mix=mix, out=Path("close"), preset="compact32", count=20_000)


def paper_comparison(preset: str, mix: MixSpec, reference: Path, seeds: Sequence[int], **options) -> Comparison:
    """A comparison at the paper's size: Table 9's training, 50,000 samples, FID against the full real set (A.2)."""
    base = Comparison(
        mix=mix,
        reference=str(reference),
        out=Path(),
        preset=preset,
        seeds=tuple(seeds[:1]),
        count=50_000,
        detector="inception",
    )
    return replace(base, **options)
