"""Training steps, Heun sampling and Frechet distance beside NVlabs/edm, by turns in one process.

    git clone https://github.com/NVlabs/edm ../edm           # its licence is for non-commercial use
    python benchmarks/against_edm.py --edm ../edm

Both sides run what users get: nomadiff with `--precision auto` unless `--precision` says otherwise, EDM in fp32 on
a CPU, as its code does. Networks are equal layer by layer (DDPM++, told the source as a label of two). Each figure is
CPU seconds of this process (a GPU's seconds on a GPU); the two sides take turns, a pair gives a ratio, and the median
ratio is printed with the range of all pairs: above 1, nomadiff is faster.

* training: one step of `nomadiff.training.loop.train` and one of EDM's (its loss, its augmentation, Adam, its cleaning
  of gradients and its moving average; its images are in memory already), with the preset's augmentation and without;
* sampling: `Model.sample`, and `edm_sampler` from noise to bytes, with the same noise levels and batch. EDM draws in a
  process of its own: `nomadiff sample` lets its process keep freed memory, which would help EDM too;
* Frechet distance of known moments of 2,048 dimensions, and the sums that moments are made of.

Nothing of EDM is part of nomadiff; the checkout's own code is imported from where it lies. It needs click, tqdm,
requests and scipy.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import Clock, Span, describe_machine, digits, print_table
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.memory import keep_freed_memory
from nomadiff.methods.casd import CASD
from nomadiff.metrics.frechet import Statistics, StatisticsAccumulator, frechet_distance
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training import loop
from nomadiff.training.config import RunConfig
from nomadiff.training.precision import has_fast_half
from nomadiff.training.presets import PRESETS
from nomadiff.training.run_folder import RunFolder

# on a CPU: images a training step, steps that are timed, images drawn together, steps of the solver
ON_CPU = {"small32": (16, 8, 32, 2), "compact32": (32, 12, 32, 6), "digits": (128, 40, 64, 18)}
ON_GPU = (256, 40, 256, 18)
WARM = 2
PARTS = ("training", "sampling", "frechet")


@dataclass(frozen=True)
class Pairs:
    """Seconds of both sides, turn by turn, for one image (or one call)."""

    ours: list[float]
    theirs: list[float]

    def cells(self) -> list[str]:
        """Milliseconds of both, and the ratio with its range."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]
        middle = [digits(1000 * statistics.median(values)) for values in (self.ours, self.theirs)]
        return [*middle, f"{statistics.median(ratios):.2f}x [{min(ratios):.2f} to {max(ratios):.2f}]"]


def imported(checkout: Path) -> SimpleNamespace:
    """EDM's parts that are measured, from a checkout."""
    if not all((checkout / name).is_file() for name in ("generate.py", "fid.py", "training/networks.py")):
        sys.exit(f"{checkout} is no checkout of NVlabs/edm: git clone https://github.com/NVlabs/edm makes one")
    sys.path.insert(0, str(checkout))
    try:
        from fid import calculate_fid_from_inception_stats
        from generate import edm_sampler
        from training.augment import AugmentPipe
        from training.loss import EDMLoss
        from training.networks import EDMPrecond
    except ImportError as error:
        sys.exit(f"{checkout} cannot be imported ({error}): pip install click tqdm requests scipy setuptools")
    finally:
        sys.path.remove(str(checkout))
    return SimpleNamespace(
        network=EDMPrecond,
        loss=EDMLoss,
        augmentation=AugmentPipe,
        sampler=edm_sampler,
        distance=calculate_fid_from_inception_stats,
    )


def turns(rounds: int, images: int, ours: Callable[[], float], theirs: Callable[[], float]) -> Pairs:
    """Both sides, which give their seconds, one after the other, after one turn to warm up."""
    found = Pairs([], [])
    for turn in range(rounds + 1):
        for run, into in ((ours, found.ours), (theirs, found.theirs)):
            seconds = run()
            if turn:
                into.append(seconds / images)
    return found


def timed(clock: Clock, run: Callable[[], Any]) -> float:
    """The seconds it takes."""
    spans: list[Span] = []
    with clock.span(spans):
        run()
    return spans[0].busy


def their_network(precond: Any, config: NetworkConfig, device: torch.device) -> torch.nn.Module:
    """EDM's network of the same layers, told a source out of two, or none; ``precond`` is EDM's class of it."""
    torch.manual_seed(0)
    network: torch.nn.Module = precond(
        img_resolution=config.resolution,
        img_channels=config.channels,
        label_dim=2,
        use_fp16=device.type == "cuda",
        model_type="SongUNet",
        model_channels=config.model_channels,
        channel_mult=list(config.channel_mult),
        num_blocks=config.blocks,
        attn_resolutions=list(config.attention),
        dropout=config.dropout,
        augment_dim=config.augment_dim,
    )
    return network.to(device)


class TheirStep:
    """One training step as EDM's README describes it, of its own parts."""

    def __init__(self, edm: SimpleNamespace, config: RunConfig, mix: SourceMix, device: torch.device) -> None:
        self.network = their_network(edm.network, config.network, device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.training.learning_rate, eps=1e-8)
        self.loss, self.batch, self.device = edm.loss(), config.training.batch, device
        self.augment = None
        if config.training.augment > 0:  # the transformations of its own trainings, which are also ours
            motions = dict.fromkeys(("yflip", "scale", "rotate_frac", "aniso", "translate_frac"), 1)
            self.augment = edm.augmentation(p=config.training.augment, xflip=1e8, **motions)
        self.images = torch.cat([source.images for source in mix.sources])
        self.sources = torch.arange(len(mix.sources)).repeat_interleave(len(mix.sources[0]))

    def __call__(self) -> None:
        chosen = torch.randint(len(self.images), (self.batch,))
        images = self.images[chosen].to(self.device).float() / 127.5 - 1
        labels = torch.nn.functional.one_hot(self.sources[chosen], 2).float().to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network, images, labels, self.augment)
        loss.sum().div(self.batch).backward()
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        self.optimizer.step()
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(new, 1e-3)


def training(edm: SimpleNamespace, config: RunConfig, mix: SourceMix, device: torch.device) -> Pairs:
    """Our own loop; after each of its steps EDM takes one."""
    clock, found, done = Clock(device), Pairs([], []), []
    step, theirs = loop._Training._step, TheirStep(edm, config, mix, device)

    def both(run: Any, meter: Any) -> None:
        for work, into in ((lambda: step(run, meter), found.ours), (theirs, found.theirs)):
            seconds = timed(clock, work)
            if len(done) >= WARM:
                into.append(seconds / config.training.batch)
        done.append(1)

    with mock.patch.object(loop._Training, "_step", both), tempfile.TemporaryDirectory() as folder:
        loop.train(config, mix, RunFolder(Path(folder) / "run"), Processes(0, 1, device))
    return found


def sampling(checkout: Path, config: RunConfig, batch: int, steps: int, rounds: int, device: torch.device) -> Pairs:
    """`Model.sample` as `nomadiff sample` calls it, and `edm_sampler` in another process."""
    torch.manual_seed(0)
    model = Model(config.build_denoiser().to(device).eval().requires_grad_(False), config, device=device)
    sampler, clock = SamplerConfig(steps=steps), Clock(device)
    options = {"sampler": sampler, "batch_size": batch, "precision": config.training.precision}
    ours, far = Pipe()
    given = (checkout, config.network, batch, steps, str(device), torch.get_num_threads())
    child = get_context("spawn").Process(target=draw_on_request, args=(far, *given), daemon=True)
    child.start()
    keep_freed_memory()

    def theirs() -> float:
        ours.send(True)
        while not ours.poll(1):
            if not child.is_alive():
                sys.exit("the process that draws with EDM ended")
        return float(ours.recv())

    try:
        return turns(rounds, batch, lambda: timed(clock, lambda: model.sample(batch, **options)), theirs)
    finally:
        ours.send(False)
        child.join()


def draw_on_request(
    pipe: Connection, checkout: Path, config: NetworkConfig, batch: int, steps: int, name: str, threads: int
) -> None:
    """Draw with EDM's sampler whenever True comes, and answer with the seconds it took."""
    torch.set_num_threads(threads)
    device, edm = torch.device(name), imported(checkout)
    network, clock = their_network(edm.network, config, device).eval().requires_grad_(False), Clock(device)
    labels = torch.eye(2, device=device)[:1].expand(batch, -1)

    def draw() -> torch.Tensor:
        latents = torch.randn((batch, config.channels, config.resolution, config.resolution), device=device)
        images: Tensor = edm.sampler(network, latents, labels, num_steps=steps)
        return (images * 127.5 + 128).clip(0, 255).to(torch.uint8).cpu()

    while pipe.recv():
        pipe.send(timed(clock, draw))


def distances(edm: SimpleNamespace, dimension: int, count: int, rounds: int) -> list[tuple[str, Pairs, float]]:
    """The distance of known moments and the sums of features; with the largest relative difference of the results."""
    generator, clock = np.random.default_rng(0), Clock(torch.device("cpu"))
    scale = np.arange(1, dimension + 1) ** -0.5
    features = [(generator.normal(size=(count, dimension)) * scale + 0.01 * n).astype(np.float32) for n in range(2)]
    one, two = (Statistics(each.mean, each.covariance, each.count) for each in map(Statistics.from_features, features))
    moments = [part.numpy() for each in (one, two) for part in (each.mean, each.covariance)]
    results: dict[str, float] = {}

    def fresh(value: Statistics) -> Statistics:
        return Statistics(value.mean, value.scatter, value.count)  # it keeps its root once that is known

    def ours() -> None:
        results["ours"] = frechet_distance(fresh(one), fresh(two))

    def theirs() -> None:
        results["theirs"] = float(edm.distance(*moments))

    found = turns(rounds, 1, lambda: timed(clock, ours), lambda: timed(clock, theirs))
    rows = [("Frechet distance", found, abs(results["ours"] / results["theirs"] - 1))]
    batches = torch.from_numpy(features[0]).split(64)

    def our_sums() -> None:
        results["ours"] = float(StatisticsAccumulator().update(features[0]).finish().trace)

    def their_sums() -> None:  # the formula of its inception statistics: sums of products, batch by batch, in float64
        total, products = torch.zeros(dimension, dtype=torch.float64), torch.zeros(dimension, dimension).double()
        for batch in batches:
            total += batch.double().sum(0)
            products += batch.double().T @ batch.double()
        mean = total / count
        results["theirs"] = float(((products - mean.outer(mean) * count) / (count - 1)).trace())

    found = turns(rounds, count, lambda: timed(clock, our_sums), lambda: timed(clock, their_sums))
    return [*rows, ("sums of features, one image", found, abs(results["ours"] / results["theirs"] - 1))]


def random_mix(config: NetworkConfig) -> SourceMix:
    """Two sources of 1,000 random images each."""
    torch.manual_seed(0)
    shape = (1000, config.channels, config.resolution, config.resolution)
    made = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2)]
    one, two = (
        ImageSource(name, images, None, {"name": name, "content_hash": name})
        for name, images in zip(("real", "made"), made)
    )
    return SourceMix(one, [two])


def compare(edm: SimpleNamespace, options: argparse.Namespace, presets: Sequence[str]) -> None:
    """Print the table."""
    device = torch.device(options.device)
    half = ", ".join(name for name in ("bf16", "fp16") if has_fast_half(device, name)) or "none"
    print(f"{describe_machine(device)}, {torch.backends.cpu.get_cpu_capability()}, half precision with kernels: {half}")
    print(f"`python {' '.join(sys.argv)}`\n")
    rows, sizes = [], []
    for name in presets:
        preset = PRESETS[name]
        mix = random_mix(preset.network)
        batch, steps, together, levels = ON_CPU[name] if device.type == "cpu" else ON_GPU
        steps, rounds = options.steps or steps, options.rounds
        changes = {"batch": batch, "budget": (steps + WARM) * batch, "warmup": 0, "precision": options.precision}
        rates = (preset.training.augment, 0.0) if preset.training.augment else (0.0,)
        recipes = {rate: CASD(preset, augment=rate, snapshot_every=10**12, **changes).recipe(mix) for rate in rates}
        whole = recipes[rates[0]]
        networks = (whole.build_denoiser(), their_network(edm.network, whole.network, torch.device("cpu")))
        counts = [sum(parameter.numel() for parameter in each.parameters()) for each in networks]
        sizes.append(f"{name}: {counts[0]:,} and {counts[1]:,} parameters")
        if "training" in options.parts:
            for rate, recipe in recipes.items():
                what = f"training step, batch {batch}" + (f", augmentation {rate:g}" if rate else "")
                rows.append([name, what, *training(edm, recipe, mix, device).cells()])
        if "sampling" in options.parts:
            found = sampling(options.edm, whole, together, levels, rounds, device)
            rows.append([name, f"sampling, {levels} Heun steps, batch {together}", *found.cells()])
    if "frechet" in options.parts:
        for what, found, difference in distances(edm, options.dimension, options.features, min(rounds, 3)):
            rows.append([f"{options.dimension} dimensions", f"{what} (differ by {difference:.0e})", *found.cells()])
    print_table(["network", "work, ms an image", "nomadiff", "edm", "edm / nomadiff"], rows)
    print("\n".join(sizes))


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edm", type=Path, required=True, help="a checkout of NVlabs/edm")
    parser.add_argument("--presets", nargs="+", choices=list(ON_CPU), default=list(ON_CPU))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--precision", default="auto", help="of nomadiff")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of sampling runs")
    parser.add_argument("--steps", type=int, help="pairs of training steps; each preset has its own unless given")
    parser.add_argument("--dimension", type=int, default=2048, help="of the features")
    parser.add_argument("--features", type=int, default=4096, help="how many there are")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare(imported(options.edm), options, options.presets)


if __name__ == "__main__":
    main()
