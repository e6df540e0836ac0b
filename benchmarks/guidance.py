"""What guided sampling costs: every way to combine a base and an auxiliary, side by side in one process.

    python benchmarks/guidance.py                      # EDM's CIFAR-10 network, random weights, this machine's CPU
    python benchmarks/guidance.py --device cuda --batch 128

Times one call of each denoiser inside and outside its interval, in rounds that take turns so that a busy machine is
busy for all, and adds the calls of one sampling run up. On a CPU seconds are those of the process's CPU clock. Memory
is the peak of a process (or of the GPU) that samples.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nomadiff.denoiser import BoundDenoiser, EDMDenoiser
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.guided import evaluations_of
from nomadiff.guidance.label_guidance import SourceGuidance
from nomadiff.guidance.merge import merged
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.guidance.shared_encoder import SharedEncoder, decoder_end
from nomadiff.models.cost import OperationCounter
from nomadiff.networks.build import build_network
from nomadiff.networks.presets import NETWORKS
from nomadiff.sampling.sampler import SamplerConfig, draw

INTERVAL = (0.05, 5.0)
WEIGHT = 1.0


def network(name: str, seed: int, sources: int = 0, end_only: bool = False) -> EDMDenoiser:
    """A network with random weights; with ``end_only`` it differs from seed 0's in the end of its decoder only."""
    torch.manual_seed(0 if end_only else seed)
    denoiser = EDMDenoiser(build_network(NETWORKS[name], sources), sources=sources)
    if end_only:
        torch.manual_seed(seed)
        for key, value in denoiser.network.named_parameters():
            if key.startswith(decoder_end(NETWORKS[name])):
                value.data += 0.01 * torch.randn_like(value)
    return denoiser.eval().requires_grad_(False)


class Vmapped:
    """Both networks in one batched forward: parameters stacked, convolutions grouped (torch.func)."""

    def __init__(self, base: EDMDenoiser, auxiliary: EDMDenoiser, weight: float) -> None:
        self.parameters, self.buffers = torch.func.stack_module_state([base, auxiliary])
        self.skeleton, self.weight = base, weight

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        def one(parameters: dict, buffers: dict) -> Tensor:
            return torch.func.functional_call(self.skeleton, (parameters, buffers), (x, sigma))

        base, auxiliary = torch.vmap(one)(self.parameters, self.buffers)
        return base + self.weight * (base - auxiliary)


class TwoStreams(Extrapolation):
    """Both networks side by side on two CUDA streams."""

    def __init__(self, base: EDMDenoiser, auxiliary: EDMDenoiser, weight: float) -> None:
        super().__init__(base, auxiliary, weight)
        self.side = torch.cuda.Stream()

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """As two passes."""
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            other = self.auxiliary(x, sigma, **condition)
        base = self.base(x, sigma, **condition)
        torch.cuda.current_stream().wait_stream(self.side)
        other.record_stream(torch.cuda.current_stream())
        return base + self.weight * (base - other)


def variants(name: str, device: torch.device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Every way, by name."""
    base, other, end = (
        each.to(device) for each in (network(name, 0), network(name, 1), network(name, 2, end_only=True))
    )
    labelled = network(name, 0, sources=2).to(device)
    streams = {"sims, two streams": TwoStreams(base, other, WEIGHT)} if device.type == "cuda" else {}
    return {
        "base": base,
        "sims, two passes": Extrapolation(base, other, WEIGHT),
        "sims, one vmapped pass": Vmapped(base, other, WEIGHT),
        "sims, decoder's end only": SharedEncoder(base, end, WEIGHT),
        "sims, interval 0.05:5": Extrapolation(base, other, WEIGHT, INTERVAL),
        "sims, both savings": SharedEncoder(base, end, WEIGHT, INTERVAL),
        "source guidance, batch of 2B": SourceGuidance(labelled, WEIGHT),
        "source guidance, two passes": Extrapolation(
            BoundDenoiser(labelled, source=0), BoundDenoiser(labelled, source=1), WEIGHT
        ),
        "perturbed attention": perturbed_attention_guidance(base, WEIGHT),
        "merged (neon) or distilled": merged(base, (other, WEIGHT)),
        **streams,
    }


def clock(device: torch.device) -> float:
    """Seconds of this process's CPU, or of the wall once the GPU has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def measure(name: str, device: torch.device, batch: int, rounds: int, steps: int) -> list[dict]:
    """One row a variant: NFE, GFLOP and seconds for one image."""
    config = NETWORKS[name]
    levels = SamplerConfig(steps=steps).called_levels()
    x = torch.randn(batch, config.channels, config.resolution, config.resolution, device=device)
    times: dict[tuple[str, bool], list[float]] = {}
    operations: dict[tuple[str, bool], int] = {}
    ways = variants(name, device)
    for round_ in range(rounds + 1):  # the first warms up
        for way, denoiser in ways.items():
            for inside in (True, False):
                limited = getattr(denoiser, "interval", None) is not None
                if not inside and not limited:
                    continue
                sigma = torch.full((batch,), 1.0 if inside else 50.0, device=device)
                started = clock(device)
                denoiser(x, sigma)
                if round_:
                    times.setdefault((way, inside), []).append(clock(device) - started)
                elif "vmapped" not in way:
                    with OperationCounter() as counted:
                        denoiser(x[:1], sigma[:1])
                    operations[way, inside] = counted.total
    operations["sims, one vmapped pass", True] = operations["sims, two passes", True]
    rows = []
    for way, denoiser in ways.items():
        limited = getattr(denoiser, "interval", None) is not None
        active = sum(not limited or INTERVAL[0] <= sigma <= INTERVAL[1] for sigma in levels)
        counts = {True: active, False: len(levels) - active}
        rows.append(
            {
                "way": way,
                "nfe": sum(evaluations_of(denoiser, sigma) for sigma in levels) * (2 if "vmapped" in way else 1),
                "gflop": sum(operations.get((way, inside), 0) * count for inside, count in counts.items()) / 1e9,
                "seconds": sum(median(times[way, inside]) * count for inside, count in counts.items() if count) / batch,
            }
        )
    return rows


def peak_memory(name: str, way: str, device: str, batch: int) -> None:
    """Sample two steps with one variant and print the peak of memory, in MiB."""
    torch_device = torch.device(device)
    denoiser = variants_of(way, name, torch_device)
    config = NETWORKS[name]
    shape = (config.channels, config.resolution, config.resolution)
    list(
        draw(
            denoiser, shape, range(batch), seed=0, config=SamplerConfig(steps=2), batch_size=batch, device=torch_device
        )
    )
    if torch_device.type == "cuda":
        print(torch.cuda.max_memory_allocated(torch_device) >> 20)
    else:
        # not getrusage: its maximum begins at what the parent process had
        lines = Path("/proc/self/status").read_text().splitlines()
        print(next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")))


def variants_of(way: str, name: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoisers whose memory is compared, with nothing else in memory."""
    base = network(name, 0).to(device)
    return base if way == "base" else Extrapolation(base, network(name, 1).to(device), WEIGHT)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar10", choices=sorted(NETWORKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--memory", choices=("base", "sims"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        peak_memory(options.network, options.memory, options.device, options.batch)
        return
    device = torch.device(options.device)
    rows = measure(options.network, device, options.batch, options.rounds, options.steps)
    base = rows[0]
    kind = "CPU seconds" if device.type == "cpu" else "seconds"
    hardware = f"{device}, {torch.get_num_threads()} thread(s)"
    print(f"{options.network}, {options.steps} Heun steps, batch {options.batch}, {hardware}")
    print(f"{'':<30}{'NFE':>7}{'GFLOP':>10}{'x base':>8}{kind + ' an image':>22}{'x base':>8}")
    for row in rows:
        print(
            f"{row['way']:<30}{row['nfe']:>7.1f}{row['gflop']:>10,.2f}{row['gflop'] / base['gflop']:>8.2f}"
            f"{row['seconds']:>22.3f}{row['seconds'] / base['seconds']:>8.2f}"
        )
    weights = sum(value.numel() for value in network(options.network, 0).parameters()) * 4 >> 20
    given = ["--network", options.network, "--device", options.device, "--batch", str(options.batch)]
    peaks = []
    for way in ("base", "sims"):
        command = [sys.executable, __file__, "--memory", way, *given]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(
        f"peak memory: base {peaks[0]} MiB, sims {peaks[1]} MiB: {peaks[1] - peaks[0]} MiB more; "
        f"one network is {weights} MiB"
    )


if __name__ == "__main__":
    main()
