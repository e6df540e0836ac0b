"""What precision and the layout of weights do to drawing: its speed, and the pictures.

    python benchmarks/drawing.py speed
    python benchmarks/drawing.py pictures MODEL --count 500 --reference TEST --reference-subset first:2000 \\
        --detector cifar10-resnet56 --detector-weights FILE

speed: CPU milliseconds of one image in one evaluation of a network with random weights, in fp32 and bf16, contiguous or
channels last, by turns in one process; the ratio is that of a pair of turns, its median with the range, above 1 where
it is faster than fp32 contiguous; and the largest and mean difference of the pictures, levels of 255.
pictures: the same images of a trained model in fp32 and in half precision: CPU seconds of an image, how much their
values differ, and what each set scores against held-out images.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from measuring import DTYPES, describe_machine, digits, print_table
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.denoiser import EDMDenoiser
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.networks.build import build_network
from nomadiff.networks.presets import NETWORKS
from nomadiff.sampling.sampler import SamplerConfig, draw, to_uint8

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SIZES = {"small32": (8, 2), "tiny": (32, 2), "digits": (64, 6)}  # images together, steps
_METRICS = ("precision", "recall", "coverage")


def network(name: str, precision: str, layout: str) -> EDMDenoiser:
    """A network with weights as after some training: fresh last layers are zero."""
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(NETWORKS[name]))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    denoiser.autocast = None if precision == "fp32" else DTYPES[precision]
    return denoiser.eval().requires_grad_(False).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]


def differences(one: Tensor, two: Tensor) -> str:
    """Largest and mean difference of two sets of pictures, in levels."""
    found = (one.int() - two.int()).abs()
    return f"{int(found.max())}, {float(found.float().mean()):.2g}"


def speed(names: list[str], rounds: int) -> None:
    """Print one row for every network, precision and layout."""
    rows = []
    for name in names:
        batch, steps = SIZES[name]
        config, sampler = NETWORKS[name], SamplerConfig(steps=steps)
        shape = (config.channels, config.resolution, config.resolution)
        ways = {(half, layout): network(name, half, layout) for half in ("fp32", "bf16") for layout in LAYOUTS}
        times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        drawn = {}
        for _ in range(rounds + 1):
            for way, denoiser in ways.items():
                start = time.process_time()
                (images,) = draw(denoiser, shape, range(batch), seed=0, config=sampler, batch_size=batch)
                times[way].append(time.process_time() - start)
                drawn[way] = to_uint8(images)
        plain = ("fp32", "contiguous")
        for way, found in times.items():
            ratios = [base / this for base, this in zip(times[plain][1:], found[1:])]
            each = digits(1000 * median(found[1:]) / sampler.nfe / batch)
            speeds = f"{median(ratios):.2f}x [{min(ratios):.2f} to {max(ratios):.2f}]"
            rows.append([name, str(batch), *way, each, speeds, differences(drawn[way], drawn[plain])])
    print_table(["network", "batch", "precision", "layout", "CPU-ms", "speed", "differ: most, mean"], rows)


def pictures(options: argparse.Namespace) -> None:
    """Print one row for every precision."""
    model = Model.load(options.model, device="cpu")
    against = None
    if options.reference:
        images = ImageSource.open(options.reference, name="real", synthetic=False, subset=options.reference_subset)
        detector = load_detector(options.detector, weights=options.detector_weights, device="cpu")
        against = ReferenceSet(images.pixels, detector=detector)
    rows, sets = [], {}
    for precision in ("fp32", options.precision):
        start = time.process_time()
        sets[precision] = model.sample(options.count, options.seed, precision=precision, show=True)
        each = (time.process_time() - start) / options.count
        row = [precision, digits(each), differences(sets[precision], sets["fp32"])]
        if against is not None:
            found = against.evaluate(sets[precision], interval=0.95)
            name = next(name for name in found if name.startswith(("fd_", "fid")))
            row.append(f"{name} {found[name]:.3f} [{found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f}]")
            row += [f"{found[metric]:.3f}" for metric in _METRICS]
        rows.append(row)
    names = ["precision", "CPU-s an image", "differ from fp32: most, mean"]
    print_table(names if against is None else [*names, "distance", *_METRICS], rows)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "pictures"])
    parser.add_argument("model", nargs="?", help="for pictures")
    parser.add_argument("--networks", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--reference")
    parser.add_argument("--reference-subset")
    parser.add_argument("--detector", default="digits")
    parser.add_argument("--detector-weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine(torch.device("cpu")))
    if options.what == "speed":
        speed(options.networks, options.rounds)
    else:
        pictures(options)


if __name__ == "__main__":
    main()
