"""Speed of sampling: nomadiff's solvers beside diffusers' schedulers on a UNet2DModel of like size.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --device cuda --presets cifar10 --precisions fp32 bf16 --steps 18

All run in turn in one process, `--rounds` times; medians are printed, nothing is asserted. Without diffusers (`pip
install diffusers`) its rows are left out.

What is compared: Euler with diffusers' EDMEulerScheduler, the same algorithm. Heun with HeunDiscreteScheduler: of the
same order and number of evaluations (2 steps - 1), though it takes the network for an epsilon predictor: diffusers
has no Heun scheduler with EDM's preconditioning. EDMDPMSolverMultistepScheduler is another algorithm, with one
evaluation a step; it is listed for its overhead. The two networks have the same width, depth and attention but not
quite the same size: so read `of reachable`, FLOP a second over those of a large matrix product or convolution on this
machine, whichever is faster.

outside: share of the time outside the network's forward pass: noise, preconditioning, solver.
images/s counts wall seconds, CPU-ms the CPU time of one image in one evaluation of the network.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import DTYPES, Clock, Span, describe_machine, digits, print_table, reachable_speed
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nomadiff.denoiser import EDMDenoiser
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.presets import NETWORKS
from nomadiff.sampling.sampler import SamplerConfig, draw

# images together and solver steps on a CPU; a GPU takes 256 and 18
ON_CPU = {"digits": (64, 18), "small32": (8, 4), "cifar10": (2, 3)}
SCHEDULERS = {
    "euler": ("EDMEulerScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "multistep": ("EDMDPMSolverMultistepScheduler", {}),
}


class Contender:
    """A network with a sampler, and the time its network takes while it is sampled."""

    def __init__(self, network: nn.Module, clock: Clock, run: Callable[[], Any]) -> None:
        self.network, self.clock, self.run = network, clock, run

    def time(self) -> tuple[Span, list[Span]]:
        """The whole, and the forward passes in it."""
        starts, forwards = [], []
        hooks = (
            self.network.register_forward_pre_hook(lambda *_: starts.append(self.clock.mark())),
            self.network.register_forward_hook(lambda *_: forwards.append(Span(starts[-1], self.clock.mark()))),
        )
        start = self.clock.mark()
        self.run()
        whole = Span(start, self.clock.mark())
        for hook in hooks:
            hook.remove()
        return whole, forwards


def ours(config: NetworkConfig, precision: str, solver: str, batch: int, steps: int, device: torch.device) -> Contender:
    """`draw`, which `Model.sample` is made of."""
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(config)).to(device).eval().requires_grad_(False)
    denoiser.autocast = None if precision == "fp32" else DTYPES[precision]
    shape = (config.channels, config.resolution, config.resolution)
    sampler = SamplerConfig(solver=solver, steps=steps)

    def run() -> None:
        for _ in draw(denoiser, shape, range(batch), seed=0, config=sampler, batch_size=batch, device=device):
            pass

    return Contender(denoiser.network, Clock(device), run)


def theirs(
    config: NetworkConfig, precision: str, solver: str, batch: int, steps: int, device: torch.device
) -> Contender:
    """A UNet2DModel in the loop that diffusers' documentation shows."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**like(config)).to(device).eval().requires_grad_(False)
    name, options = SCHEDULERS[solver]
    scheduler = getattr(diffusers, name)(**options)
    shape = (batch, config.channels, config.resolution, config.resolution)

    @torch.no_grad()
    def run() -> None:
        scheduler.set_timesteps(steps, device=device)
        x = torch.randn(shape, device=device) * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, step)
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                prediction = network(scaled, step).sample
            x = scheduler.step(prediction.float(), step, x).prev_sample

    return Contender(network, Clock(device), run)


def like(config: NetworkConfig) -> dict[str, Any]:
    """Arguments of a UNet2DModel with the width, depth and attention of ``config``."""
    attends = [resolution in config.attention for resolution in config.level_resolutions]
    return {
        "sample_size": config.resolution,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "layers_per_block": config.blocks,
        "block_out_channels": tuple(config.model_channels * factor for factor in config.channel_mult),
        "down_block_types": tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        "up_block_types": tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        "norm_num_groups": min(32, config.model_channels // 4),
        # one head, as in DDPM++
        "attention_head_dim": config.model_channels * max(config.channel_mult),
    }


def flops(network: nn.Module, config: NetworkConfig) -> float:
    """FLOP of one evaluation for one image, counted without computing it."""
    network = copy.deepcopy(network).to("meta")
    x = torch.zeros(1, config.channels, config.resolution, config.resolution, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, torch.zeros(1, device="meta"))
    return float(counter.get_total_flops())


def compare(
    presets: list[str], precisions: list[str], device: torch.device, rounds: int, steps: int | None, batch: int | None
) -> None:
    """Print one row for every preset, precision, library and solver."""
    print(f"{describe_machine(device)}; {rounds} rounds in turn, medians")
    sides = {"nomadiff": (ours, ["euler", "heun"])}
    try:
        import diffusers

        sides[f"diffusers {diffusers.__version__}"] = (theirs, list(SCHEDULERS))
    except ImportError:
        print("diffusers is not installed: its rows are left out")
    columns = ["network", "precision", "batch", "library", "solver", "NFE", "parameters", "GFLOP", "images/s"]
    columns += ["ms" if device.type == "cuda" else "CPU-ms", "of reachable", "outside"]
    for preset in presets:
        rows = []
        config = NETWORKS[preset]
        size, count = (256, 18) if device.type == "cuda" else ON_CPU[preset]
        size, count = batch or size, steps or count
        for precision in precisions:
            peak = reachable_speed(device, precision)
            contenders = {
                (library, solver): make(config, precision, solver, size, count, device)
                for library, (make, solvers) in sides.items()
                for solver in solvers
            }
            timings: dict[tuple[str, str], list[tuple[Span, list[Span]]]] = {key: [] for key in contenders}
            for _ in range(rounds + 1):
                for key, contender in contenders.items():
                    timings[key].append(contender.time())
            for (library, solver), found in timings.items():
                found = found[1:]  # the first one warms up
                network = contenders[library, solver].network
                wall, busy, evaluations = (
                    statistics.median(values)
                    for values in (
                        [whole.wall for whole, _ in found],
                        [whole.busy for whole, _ in found],
                        [len(forwards) for _, forwards in found],
                    )
                )
                outside = statistics.median(
                    1 - sum(span.busy for span in forwards) / whole.busy for whole, forwards in found
                )
                one = flops(network, config)
                name = solver if library == "nomadiff" else SCHEDULERS[solver][0].removesuffix("Scheduler")
                rows.append(
                    [
                        *(preset, precision, str(size), library, name, f"{evaluations:.0f}"),
                        f"{sum(p.numel() for p in network.parameters()) / 1e6:.3g} M",
                        *(digits(one / 1e9), digits(size / wall), digits(1000 * busy / size / evaluations)),
                        *(f"{one * size * evaluations / busy / peak:.0%}", f"{outside:.1%}"),
                    ]
                )
        print_table(columns, rows)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(ON_CPU), default=list(ON_CPU))
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the solver; each preset has its own unless given")
    parser.add_argument("--batch", type=int, help="images together; each preset has its own unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compare(
        arguments.presets,
        arguments.precisions,
        torch.device(arguments.device),
        arguments.rounds,
        arguments.steps,
        arguments.batch,
    )


if __name__ == "__main__":
    main()
