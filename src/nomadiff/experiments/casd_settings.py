"""What the CASD recipes share: the three scales and the two worlds they run in, digits and the paper's images.

========  ==========================================================================================================
``smoke``  seconds on digits, in CI: shows that the recipe runs, nothing else
``small``  within an hour on two cores, on digits; with ``--data`` on real CIFAR-10 instead, far from trained
``paper``  the paper's configuration; needs its files in ``--data`` and many GPU hours (``--dry-run`` prints both)
========  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomadiff.data.mix_spec import MixSpec
from nomadiff.experiments.compare import Comparison
from nomadiff.experiments.study import NeededFile

__all__ = [
    "CIFAR10",
    "CIFAR10_TEST",
    "CIFAR10_TRAIN",
    "FFHQ",
    "cifar_comparison",
    "digits_comparison",
    "paper_comparison",
    "synthetic_file",
]

CIFAR10_TRAIN = NeededFile("cifar10-32x32-train.zip", "CIFAR-10's 50,000 training images as an EDM-layout zip")
CIFAR10_TEST = NeededFile("cifar10-32x32-test.zip", "CIFAR-10's 10,000 test images as an EDM-layout zip")
CIFAR10 = CIFAR10_TRAIN
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


def cifar_comparison(data: Path, mix: MixSpec, seeds: Sequence[int], **options) -> Comparison:
    """A comparison on real CIFAR-10 at a budget two cores can pay: real size, honest about being under-trained."""
    base = Comparison(
        mix=mix,
        reference=str(data / CIFAR10_TEST.name),
        out=Path(),
        preset="tiny",
        seeds=tuple(seeds),
        changes={"budget": 10_000, "log_every": 1_000},
        count=500,
        detector="pixels",
        notes=(
            "Real CIFAR-10 images, a 1.2 M network and 10,000 images seen: far from trained. Synthetic sources are "
            "stand-ins: other real images, chosen or altered to play the part.",
        ),
    )
    return replace(base, **options)


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
