"""Speed and memory of training: nomadiff's own loop, taken apart, beside a plain PyTorch loop with the same network.

    python benchmarks/training.py speed              images a second, and the share of time outside the network
    python benchmarks/training.py memory             what 50,000 images of 32 x 32 cost, in a process of its own
    python benchmarks/training.py speed --device cuda --presets cifar10 --precisions fp32 bf16 --steps 50

`speed` runs the loops in turn in one process, `--rounds` times, and prints medians; nothing is asserted. All train the
preset's network, told its source, on 2,000 random images in memory:

* nomadiff: `nomadiff.training.loop.train` as users call it, augmentation as in the preset; then without augmentation;
* plain PyTorch: a DataLoader over a TensorDataset, Adam as torch constructs it, an average of the weights, the same
  loss, no augmentation: the loop as one writes it first.

outside: share of the loop's time outside forward, backward and optimizer: batches, augmentation, noise, averaging, log.
snapshot: what a snapshot costs (state, average, probe) over the time from one to the next at the preset's rhythm.
of reachable: FLOP a second (forward and backward count as three forwards) over those of a large matrix product or
convolution on this machine, whichever is faster, measured in the same run.
CPU seconds are the process' own, wall seconds the clock's: they part when the machine does something else too.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import DTYPES, Clock, Span, describe_machine, digits, print_table, reachable_speed
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.writing import write_images
from nomadiff.methods.casd import CASD
from nomadiff.networks.flops import flops_of
from nomadiff.processes import Processes
from nomadiff.training import loop
from nomadiff.training.config import RunConfig
from nomadiff.training.loss import edm_loss
from nomadiff.training.presets import PRESETS
from nomadiff.training.run_folder import RunFolder

# images a step and timed steps on a CPU; a GPU takes the preset's batch
ON_CPU = {"digits": (128, 60), "compact32": (64, 6), "small32": (32, 3), "cifar10": (4, 3)}
WARM = 2


@dataclass(frozen=True)
class Timing:
    """Seconds of the timed steps; the shares are NaN where they were not measured."""

    wall: float
    cpu: float
    busy: float
    outside: float = float("nan")
    snapshot: float = float("nan")


def random_mix(channels: int, resolution: int) -> SourceMix:
    """Two sources of 1,000 random images each."""
    generator = torch.Generator().manual_seed(0)

    def source(name: str) -> ImageSource:
        images = torch.randint(0, 256, (1000, channels, resolution, resolution), generator=generator, dtype=torch.uint8)
        return ImageSource(name, images, None, {"name": name, "content_hash": name})

    return SourceMix(source("real"), [source("made")])


def time_nomadiff(config: RunConfig, mix: SourceMix, device: torch.device) -> Timing:
    """`train` itself, with a mark before and after the parts that count as network and optimizer."""
    clock = Clock(device)
    spans: dict[str, list[Span]] = {}

    def watch(owner: Any, name: str) -> Any:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with clock.span(spans.setdefault(name, [])):
                return function(*args, **kwargs)

        return mock.patch.object(owner, name, timed)

    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for owner, name in (
            (loop, "edm_loss"),
            (Tensor, "backward"),
            (torch.optim.Adam, "step"),
            (loop, "source_effect"),
            (loop._Training, "_save"),
            (loop._Training, "_step"),
        ):
            stack.enter_context(watch(owner, name))
        loop.train(config, mix, RunFolder(Path(folder) / "run"), Processes(0, 1, device))
    whole = Span(spans["_step"][WARM].start, spans["_step"][-1].end)
    network = [span for name in ("edm_loss", "backward", "step") for span in spans[name] if whole.start < span.start]
    snapshot = spans["_save"][-1].busy + spans["source_effect"][-1].busy
    outside = 1 - sum(span.busy for span in network) / whole.busy
    return Timing(whole.wall, whole.cpu, whole.busy, outside, snapshot)


def time_plain(config: RunConfig, mix: SourceMix, device: torch.device) -> Timing:
    """The same network and loss in the loop one writes first."""
    options = config.training
    torch.manual_seed(0)
    denoiser = config.build_denoiser().to(device)
    denoiser.autocast = None if options.precision == "fp32" else DTYPES[options.precision]
    average = copy.deepcopy(denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=options.learning_rate)
    images = torch.cat([source.images for source in mix.sources])
    label = torch.cat([torch.full((len(source),), number) for number, source in enumerate(mix.sources)])
    loader = DataLoader(TensorDataset(images, label), options.batch, shuffle=True, drop_last=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    clock, losses = Clock(device), []
    for step, (clean, source) in enumerate(batches()):
        if step == WARM:
            start = clock.mark()
        clean, source = clean.to(device).float() / 127.5 - 1, source.to(device)
        sigma = (torch.randn(len(clean), device=device) * options.p_std + options.p_mean).exp()
        loss = edm_loss(denoiser, clean, sigma, torch.randn_like(clean), source=source).sum() / len(clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), denoiser.parameters()):
                kept.lerp_(new, 0.001)
        losses.append(loss.item())
        if step + 1 == options.steps:
            break
    whole = Span(start, clock.mark())
    return Timing(whole.wall, whole.cpu, whole.busy)


def speed(
    presets: list[str], precisions: list[str], device: torch.device, rounds: int, steps: int | None, batch: int | None
) -> None:
    """Print one row for every preset, precision and loop."""
    print(f"{describe_machine(device)}; {rounds} rounds in turn, medians")
    columns = [
        "network",
        "precision",
        "batch",
        "loop",
        "images/s",
        "images/CPU-s",
        "of reachable",
        "outside",
        "snapshot",
    ]
    for preset in presets:
        rows = []
        chosen = PRESETS[preset]
        mix = random_mix(chosen.network.channels, chosen.network.resolution)
        size, count = (chosen.training.batch, 30) if device.type == "cuda" else ON_CPU[preset]
        size, count = batch or size, steps or count
        for precision in precisions:
            peak = reachable_speed(device, precision)
            changes = {"batch": size, "budget": (WARM + count) * size, "precision": precision}
            config = CASD(chosen, snapshot_every=10**12, **changes).recipe(mix)
            bare = replace(config, training=replace(config.training, augment=0.0))
            contenders: dict[str, Callable[[], Timing]] = {
                "nomadiff": partial(time_nomadiff, config, mix, device),
                "nomadiff, no augmentation": partial(time_nomadiff, bare, mix, device),
                "plain PyTorch": partial(time_plain, bare, mix, device),
            }
            if config == bare:
                del contenders["nomadiff, no augmentation"]
            timings: dict[str, list[Timing]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, contender in contenders.items():
                    timings[name].append(contender())
            work = 3 * flops_of(config.network, config.sources) * size * count
            for name, found in timings.items():
                wall, cpu, busy, outside, snapshot = (
                    statistics.median(getattr(timing, field) for timing in found)
                    for field in ("wall", "cpu", "busy", "outside", "snapshot")
                )
                interval = chosen.training.snapshot_every / (size * count) * busy
                rows.append(
                    [
                        *(preset, precision, str(size), name),
                        *(digits(size * count / wall), "" if device.type == "cuda" else digits(size * count / cpu)),
                        f"{work / busy / peak:.0%}",
                        "" if outside != outside else f"{outside:.1%}",
                        "" if snapshot != snapshot else f"{snapshot / (interval + snapshot):.1%}",
                    ]
                )
        print_table(columns, rows)


_MEMORY = """
import json, resource, sys
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix

def resident():
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) * 1024 for line in handle if line.startswith("VmRSS"))

import torch, numpy, scipy.sparse
before = resident()
source = ImageSource.open(sys.argv[1], name="real", synthetic=False)
mix = SourceMix(source)
for start in range(0, 50_000, 512):
    mix.batch(start, 512, seed=0)
after, peak = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([len(source), source.images.nbytes, after - before, peak - before]))
"""


def memory() -> None:
    """Print the resident memory that 50,000 images of 32 x 32 add to a fresh process, after an epoch of batches."""
    rows = []
    images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        array, archive = Path(folder) / "images.npz", Path(folder) / "images.zip"
        np.savez(array, images=images)
        batches = iter([torch.from_numpy(images).permute(0, 3, 1, 2)])
        write_images(archive, batches, len(images), manifest={"kind": "real"})
        for path in (array, archive):
            result = subprocess.run([sys.executable, "-c", _MEMORY, path], capture_output=True, text=True, check=True)
            count, held, resident, peak = json.loads(result.stdout)
            rows.append([path.suffix, f"{count:,}", *(f"{value / 1e6:,.0f} MB" for value in (held, resident, peak))])
    print_table(["read from", "images", "as uint8", "resident, added", "at the peak, added"], rows)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--presets", nargs="+", choices=list(ON_CPU), default=list(ON_CPU))
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="timed steps a round; each preset has its own unless given")
    parser.add_argument("--batch", type=int, help="images a step; each preset has its own unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "memory":
        memory()
    else:
        speed(
            arguments.presets,
            arguments.precisions,
            torch.device(arguments.device),
            arguments.rounds,
            arguments.steps,
            arguments.batch,
        )


if __name__ == "__main__":
    main()
