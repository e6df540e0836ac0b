"""Search for the preset of small photographs on a CPU: the most quality for equal arithmetic.

    python benchmarks/compact_search.py OUT --data FOLDER [--tera 60] [--only NAME ...] [--table]
    python benchmarks/compact_search.py OUT --data FOLDER --resolution 64

FOLDER holds CIFAKE's ``real-train-10k.zip`` and ``real-test-10k.zip`` (CIFAR-10 photographs as JPEG), or for 64 pixels
EuroSAT's ``train-64-6k.zip`` and ``test-64-2k.zip`` (satellite tiles). Every candidate is trained on the first 5,000
real images with the same number of floating-point operations (``--tera``, in 10^12; a training image costs three
forward passes) and judged by images it has not seen:

* ``held-out`` and ``train``: EDM's loss at 16 fixed noise levels with fixed noise, on 1,000 test and 1,000 training
  images, mean over the training's distribution of levels. Their gap is a sign of copying.
* ``fd``: ``fd_cifar10_resnet56``, or ``fd_wavelets`` for 64 pixels, of 400 samples (10 steps, NFE 19) to the first
  5,000 test images; it is not FID.

Candidates run one at a time; several calls side by side share OUT. A finished candidate costs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import nomadiff as nd
from nomadiff.files import read_json, write_json
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.flops import flops_of
from nomadiff.networks.presets import NETWORKS
from nomadiff.reports.markdown import markdown_table
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.loss import edm_loss
from nomadiff.training.presets import Preset
from nomadiff.training.run_folder import RunFolder
from nomadiff.training.settings import TrainingConfig

LEVELS = 16
SAMPLES = 400
P_MEAN, P_STD = -1.2, 1.2


@dataclass(frozen=True)
class Images:
    """What candidates of one resolution learn from and are judged by."""

    train: str
    test: str
    detector: str


IMAGES = {
    32: Images("real-train-10k.zip", "real-test-10k.zip", "cifar10-resnet56"),
    64: Images("train-64-6k.zip", "test-64-2k.zip", "wavelets"),
}


def compact(training: dict[str, Any] | None = None, **network: Any) -> Candidate:
    """``compact32``, but for changes of its training and of its network."""
    return Candidate(replace(NETWORKS["tiny"], **network), {"learning_rate": 2e-3, **(training or {})})


@dataclass(frozen=True)
class Candidate:
    """A network and what of its training differs from the common settings."""

    network: NetworkConfig
    training: dict[str, Any] = field(default_factory=dict)


CANDIDATES = {
    "tiny": Candidate(NETWORKS["tiny"]),
    "small32": Candidate(NETWORKS["small32"]),
    "patch 2, 64, 1 block": Candidate(NetworkConfig("ddpmpp", 32, 3, 64, (1, 2), 1, (8,), augment_dim=9, patch=2)),
    "compact32": compact(),
    "compact32, 16-32-64": compact(model_channels=16, channel_mult=(1, 2, 4)),
    "compact32, 16-32-64, 2 blocks": compact(model_channels=16, channel_mult=(1, 2, 4), blocks=2),
    "compact32, 16-64-64": compact(model_channels=16, channel_mult=(1, 4, 4)),
    "compact32, 2 blocks": compact(blocks=2),
    "compact32, attention at 16": compact(attention=(16,)),
    "compact32, rate 4e-3": compact({"learning_rate": 4e-3}),
    "compact32, batch 32": compact({"batch": 32}),
    "compact32, no augmentation": compact({"augment": 0.0}),
    "compact32, noise -0.8": compact({"p_mean": -0.8}),
    "compact32, short average": compact({"ema_half_life": 450}),
    "compact32, long average": compact({"ema_half_life": 4_000}),
    "compact32 at 64": compact(resolution=64),
    "compact32 at 64, patch 2": compact(resolution=64, patch=2),
    "compact32 at 64, 4 levels": compact(resolution=64, channel_mult=(1, 2, 2, 2)),
    "compact64": compact(resolution=64, model_channels=16, channel_mult=(1, 2, 4, 4)),
}


def preset(candidate: Candidate, tera: float) -> tuple[Preset, int]:
    """The candidate as a preset whose budget spends the operations; and the budget."""
    budget = int(tera * 1e12 / (3 * flops_of(candidate.network)))
    common: dict[str, Any] = {
        "batch": 64,
        "learning_rate": 1e-3,
        "warmup": budget // 10,
        "ema_half_life": budget // 12,
        "ema_rampup": None,
        "augment": 0.12,
        "precision": "bf16",
        "snapshot_every": max(budget // 4, 1),
        "log_every": max(budget // 20, 1),
    }
    training = TrainingConfig(budget=budget, **{**common, **candidate.training})
    return Preset(candidate.network, training, SamplerConfig(steps=10), 0.5, "candidate"), budget


@torch.no_grad()
def fixed_loss(denoiser: Any, images: torch.Tensor) -> float:
    """EDM's loss at fixed levels and noise, ``images`` uint8 ``(N, 3, 32, 32)``."""
    quantiles = (torch.arange(LEVELS) + 0.5) / LEVELS
    levels = (P_MEAN + P_STD * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)).exp()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for start in range(0, len(images), 100):
        clean = images[start : start + 100].float() / 127.5 - 1
        sigma = levels.repeat(len(clean) // LEVELS + 1)[: len(clean)]
        noise = torch.randn(clean.shape, generator=generator)
        losses.append(edm_loss(denoiser, clean, sigma, noise).mean(dim=(1, 2, 3)))
    return float(torch.cat(losses).mean())


def run(name: str, out: Path, data: Path, weights: str | None, tera: float) -> None:
    """Train and judge one candidate, unless it is done or another process is at it."""
    folder = out / name.replace(", ", "-").replace(" ", "_")
    result = folder / "result.json"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "candidate.lock", timeout=0):
            if result.exists():
                return
            candidate = CANDIDATES[name]
            recipe, budget = preset(candidate, tera)
            images = IMAGES[candidate.network.resolution]
            real = nd.ImageSource.open(data / images.train, name="real", synthetic=False, subset="first:5000")
            test = nd.ImageSource.open(data / images.test, name="test", synthetic=False)
            test = test.first(min(5000, len(test)))
            wall, cpu = time.perf_counter(), time.process_time()
            model = nd.DM(recipe).fit(nd.SourceMix(real, []), folder / "run", device="cpu", description=name)
            spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            curve = []
            for seen in RunFolder(folder / "run").snapshots():
                curve.append((seen, fixed_loss(Model.load(folder / "run", snapshot=seen).denoiser, test.images[:1000])))
            detector = load_detector(images.detector, weights=weights)
            reference = ReferenceSet(test.images, detector=detector, cache=out / "features")
            scores = reference.evaluate(model.sample(SAMPLES, seed=1))
            row = {
                "candidate": name,
                "parameters": sum(value.numel() for value in model.denoiser.parameters()),
                "gflop": flops_of(candidate.network) / 1e9,
                "images": budget,
                **spent,
                "held_out": fixed_loss(model.denoiser, test.images[:1000]),
                "train": fixed_loss(model.denoiser, real.images[:1000]),
                "fd": scores[distance_name(detector)],
                **{key: scores[key] for key in ("precision", "recall")},
                "curve": curve,
            }
            write_json(result, row)
            print(json.dumps(row), flush=True)
    except Timeout:
        return


def table(out: Path) -> str:
    """All results, best held-out distance first."""
    rows = sorted((read_json(path) for path in out.glob("*/result.json")), key=lambda row: row["fd"])
    head = ["candidate", "M parameters", "GFLOP", "images", "CPU-s", "held-out", "train", "fd", "precision", "recall"]
    body = [
        [
            row["candidate"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['gflop']:.2f}",
            f"{row['images']:,}",
            f"{row['cpu']:.0f}",
            f"{row['held_out']:.4f}",
            f"{row['train']:.4f}",
            f"{row['fd']:.2f}",
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(head, body)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="file of cifar10-resnet56's weights, where it cannot be downloaded")
    parser.add_argument("--tera", type=float, default=60.0)
    parser.add_argument("--resolution", type=int, choices=list(IMAGES), default=32)
    parser.add_argument("--only", nargs="*", choices=list(CANDIDATES))
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        fitting = [name for name, one in CANDIDATES.items() if one.network.resolution == arguments.resolution]
        for name in arguments.only or fitting:
            run(name, arguments.out, arguments.data, arguments.weights, arguments.tera)
    print(table(arguments.out))


if __name__ == "__main__":
    main()
