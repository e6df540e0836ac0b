"""The base models that the SIMS recipes improve, and the scales.

==========  ========================================================================================================
``smoke``   seconds on digits: shows that the recipe runs, nothing else
``small``   within an hour on two cores: digits, a base that was trained for a short time and one that has converged
``medium``  32x32 photographs from ``--data``, a base of our own: hours on two cores, minutes on a GPU
``paper``   the paper's published networks and references, from ``--data``; GPU days (``--dry-run`` prints both)
==========  ========================================================================================================

The settings on digits were fixed on seeds 0 to 3 (300 steps for the short base; 2,000 own samples; a fine-tuning at a
quarter of the learning rate for 100 steps; weight 1); recipes score on fresh noise. On photographs nothing was tuned:
the base is that of the preset, and it is fine-tuned as a fifth of its budget at a quarter of its learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nomadiff.improve.settings import Improvement
from nomadiff.reproduce.data_files import PHOTOGRAPHS, PHOTOGRAPHS_TEST, NeededFile

__all__ = ["CONVERGED", "DIGITS_SHORT", "PAPER", "PHOTOS", "SHORT", "SMOKE", "Subject", "improving"]

DIGITS_SHORT = Improvement(
    weight=1.0, synthetic_count=2000, budget=12_800, snapshots=1, learning_rate=5e-4, evaluations=4, confirmations=4
)
_MI = 1_000_000
_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs"
_EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs"


@dataclass(frozen=True)
class Subject:
    """A base model, how it is improved, and what it is judged by.

    Attributes:
        name: what tables call the base.
        improvement: settings; the seed is the recipe's.
        count: samples of every candidate.
        base_budget: images its training sees; 0 for a published network.
        preset: its network and solver.
        model: name of the published network's folder in ``--data``, made by ``nomadiff import``.
        train: the real images it is trained on; empty for a published network.
        reference: held-out real images, or a statistics file, which gives the distance alone.
        detector: feature space.
        classifier: a classifier's file in ``--data``; the detector classifies if empty.
        weight: the paper's best weight, or the one fixed for digits.
        other: another model's samples of the same kind of images, for what needs them.
        files: what it reads from ``--data``.
    """

    name: str
    improvement: Improvement
    count: int
    base_budget: int = 0
    preset: str = "digits"
    model: str = ""
    train: str = "digits:pool"
    reference: str = "digits:reference"
    detector: str = "digits"
    classifier: str = ""
    weight: float = 1.0
    other: str = "digits:close"
    files: tuple[NeededFile, ...] = ()


def improving(subject: Subject, **changes: Any) -> Subject:
    """The subject with other settings of its improvement."""
    return replace(subject, improvement=replace(subject.improvement, **changes))


SHORT = Subject("short", DIGITS_SHORT, 1000, 38_400)
CONVERGED = Subject("converged", DIGITS_SHORT, 1000, 153_600)
SMOKE = improving(
    replace(SHORT, count=64, base_budget=256),
    synthetic_count=64,
    budget=256,
    count=64,
    confirmations=2,
    evaluations=2,
)
PHOTOS = Subject(
    "photographs",
    replace(DIGITS_SHORT, synthetic_count=5000, budget=60_000),
    1000,
    300_000,
    preset="compact32",
    train=PHOTOGRAPHS.name,
    reference=PHOTOGRAPHS_TEST.name,
    detector="cifar10-resnet56",
    files=(PHOTOGRAPHS, PHOTOGRAPHS_TEST),
)


def _published(model: str, reference: str, preset: str, *, budget: int, own: int, weight: float) -> Subject:
    return Subject(
        preset.split("-")[0],
        Improvement(weight=weight, synthetic_count=own, budget=budget, snapshots=3, count=50_000),
        50_000,
        preset=preset,
        model=model,
        train="",
        reference=reference,
        detector="inception",
        weight=weight,
        files=(
            NeededFile(model, f"the folder that `nomadiff import {model} --out {model}` makes"),
            NeededFile(reference, f"{_EDM2 if reference.endswith('.pkl') else _EDM}/{reference}"),
        ),
    )


# SIMS section 4.1 and appendices B to E: own samples, budget and weight of its best models. ImageNet-512's one draws
# latents, which Stable Diffusion's autoencoder decodes (from the hub, unless it is in its cache)
PAPER = (
    _published("edm-cifar10-uncond-vp", "cifar10-32x32.npz", "cifar10", budget=40 * _MI, own=100_000, weight=0.8),
    _published("edm-ffhq-uncond-vp", "ffhq-64x64.npz", "ffhq64", budget=34 * _MI, own=100_000, weight=1.5),
    _published("edm2-img64-s", "img64.pkl", "imagenet64-edm2-s", budget=56 * _MI, own=1_500_000, weight=0.9),
    _published("edm2-img512-s", "img512.pkl", "imagenet512-edm2-s", budget=102 * _MI, own=1_500_000, weight=0.7),
)
