"""Jobs for a short session on a GPU: smoke tests, speeds, two-dimensional loops, then the photographic study.

    python scripts/gpu_session.py OUT [--minutes 9] [--only REGEX] [--data FOLDER] [--edm CHECKOUT]
    python scripts/gpu_session.py OUT --toy --device cpu --minutes 2     a rehearsal with tiny networks

It needs this checkout (``PYTHONPATH=src``) and the packages of ``pip install .``; nothing is fetched. Jobs run in order
of priority, each at most once: OUT/jobs.jsonl gets a line as soon as one ends, a job that fails is recorded with its
error, and the same command continues. OUT/report.md is written anew after every job. Jobs:

* smoke: for every family of networks and precision three training steps, of which all but the first must not wait for
  the device (--microbatch auto; gradients checkpointed in fp32), and one evaluation, channels last or not, against the
  CPU's in fp32; every guidance against the CPU's; one training under torchrun (DistributedDataParallel of one);
* norm: group norm with SiLU, nomadiff's and torch's, against torch's in float64, and milliseconds of both;
* same: images drawn one, seven and all at a time, and on the CPU; training with a CUDA graph, and compiled, against
  plain training;
* net: forward and backward of a preset's network alone, eager, compiled or as a CUDA graph, channels last or not: what
  the training loop could reach;
* profile: which kernels a training step spends its time in;
* train: the shipped training loop, images a second, and memory; eager, and with blocks compiled;
* sample: `Model.sample`, images a second, eager and compiled, in the given precision; noise: what it starts from;
* edm: the same forward and backward, and its sampler, with NVlabs/edm's network of the same configuration, if a
  checkout is given;
* guidance cost: sampling with two networks over sampling with one, in every way;
* plane: one generation of 1,000 loops of points in the plane, together;
* several: trainings of compact32 side by side on one card, images a second together;
* study: CASD's Tables 3 and 2 on FOLDER's photographs (``nomadiff reproduce --scale medium``), all models at once, for
  the minutes that are left.

"share" is FLOP a second (a backward pass counts as two forward ones) over the card's dense bf16 peak by its data sheet,
or over the largest matrix product measured here where the card is not known.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from measuring import DTYPES, describe_machine, reachable_speed  # noqa: E402

from nomadiff.data.image_source import ImageSource  # noqa: E402
from nomadiff.data.source_mix import SourceMix  # noqa: E402
from nomadiff.denoiser import EDMDenoiser  # noqa: E402
from nomadiff.guidance.extrapolation import Extrapolation  # noqa: E402
from nomadiff.guidance.gradient import ClassifierGuidance, DiscriminatorGuidance  # noqa: E402
from nomadiff.guidance.label_guidance import ClassifierFreeGuidance, SourceGuidance  # noqa: E402
from nomadiff.guidance.merge import merged  # noqa: E402
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance  # noqa: E402
from nomadiff.guidance.shared_encoder import SharedEncoder  # noqa: E402
from nomadiff.methods.casd import CASD  # noqa: E402
from nomadiff.models.model import Model  # noqa: E402
from nomadiff.networks.build import build_network  # noqa: E402
from nomadiff.networks.config import NetworkConfig  # noqa: E402
from nomadiff.networks.flops import flops_of  # noqa: E402
from nomadiff.networks.layers import group_norm  # noqa: E402
from nomadiff.networks.presets import NETWORKS  # noqa: E402
from nomadiff.processes import Processes  # noqa: E402
from nomadiff.sampling.sampler import SamplerConfig  # noqa: E402
from nomadiff.seeding import SampleNoise  # noqa: E402
from nomadiff.training import loop  # noqa: E402
from nomadiff.training.feeding import kernels_by_trial  # noqa: E402
from nomadiff.training.presets import PRESETS, Preset  # noqa: E402
from nomadiff.training.run_folder import RunFolder  # noqa: E402

FAMILIES = ("compact32", "small32", "cifar10-ncsnpp", "imagenet64-adm", "imagenet64-edm2-xs")
MEASURED = ("cifar10", "compact32", "small32", "ffhq64", "imagenet64-edm2-s")
TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest difference to the CPU's fp32 result, over the largest value; fp32 convolutions are TF32 on a GPU."""
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "3090": 71e12, "V100": 125e12}
"""Dense bf16 (V100: fp16) FLOP a second by NVIDIA's data sheets."""


@dataclass(frozen=True)
class Job:
    """One line of the journal: what to run, and seconds it is expected to take."""

    name: str
    seconds: float
    run: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """The settings that all jobs share."""

    device: torch.device
    toy: bool
    out: Path
    data: Path | None
    edm: Path | None

    def network(self, name: str) -> NetworkConfig:
        """A preset's or a named network, or a tiny one of its family in a rehearsal."""
        return self.small_network(name) if self.toy else named_network(name)

    def small_network(self, name: str) -> NetworkConfig:
        """A tiny network of the same family; on a GPU with attention."""
        small: dict[str, Any] = {"model_channels": 32, "channel_mult": (1, 2), "blocks": 1, "channels_per_head": 32}
        small |= {"resolution": 8, "attention": ()} if self.toy else {"resolution": 16, "attention": (8,)}
        return replace(named_network(name), **small)

    def preset(self, name: str) -> Preset:
        """A named preset with that network."""
        chosen = PRESETS[name]
        return replace(chosen, network=self.network(name)) if self.toy else chosen

    def batch(self, name: str) -> int:
        """Images to a forward pass."""
        return 4 if self.toy else {"cifar10": 512, "ffhq64": 256, "imagenet64-edm2-s": 128}.get(name, 1024)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any], most: float = 4.0) -> float:
        """Median seconds of a call after two to warm up: up to ten calls, or as many as fit into ``most`` seconds."""
        for _ in range(2):
            call()
        self.synchronise()
        found: list[float] = []
        while len(found) < (2 if self.toy else 10) and sum(found) < most:
            start = time.perf_counter()
            call()
            self.synchronise()
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    def memory(self) -> float | None:
        """GiB at the peak since the last call of it."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 2)

    def share(self, flops: float) -> float:
        """Of the card's peak."""
        return round(flops / peak_of(self.device), 4)


def named_network(name: str) -> NetworkConfig:
    """A preset's network, or a network by its own name."""
    return PRESETS[name].network if name in PRESETS else NETWORKS[name]


@cache
def peak_of(device: torch.device) -> float:
    """The card's peak; see the module."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for card, peak in PEAKS.items():
            if card in name:
                return peak
    return reachable_speed(device, "bf16")


def random_mix(channels: int, resolution: int) -> SourceMix:
    """Two sources of 1,000 random images."""
    images = torch.randint(0, 256, (1000, channels, resolution, resolution), dtype=torch.uint8)
    real, made = (ImageSource(name, images, None, {"name": name}) for name in ("real", "made"))
    return SourceMix(real, [made])


def denoiser_of(config: NetworkConfig, sources: int = 2, classes: int = 0, seed: int = 0) -> EDMDenoiser:
    """A denoiser with weights as after some training: fresh last layers are zero and would hide what they pass on."""
    torch.manual_seed(seed)
    denoiser = EDMDenoiser(build_network(config, sources + classes), sources=sources, classes=classes, sigma_data=0.5)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return denoiser.eval().requires_grad_(False)


def against_cpu(
    session: Session, make: Callable[[torch.device], Any], config: NetworkConfig, **condition: Any
) -> float:
    """Largest difference of a denoiser's result on the device to the CPU's, over the CPU's largest value."""
    torch.manual_seed(1)
    x = torch.randn(2, config.channels, config.resolution, config.resolution)
    sigma = torch.tensor([0.3, 2.0])
    expected = make(torch.device("cpu"))(x, sigma, **condition)
    found = make(session.device)(x.to(session.device), sigma.to(session.device), **condition).float().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


@contextmanager
def steps_that_wait_for_nothing(device: torch.device) -> Iterator[None]:
    """Every step of a training but its first, which tries kernels and memory, fails where it waits for the device."""
    step, done = loop._Training._step, []

    def watched(self: Any, meter: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if done else "default")
        try:
            step(self, meter)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        done.append(self.images_seen)

    if device.type == "cuda":
        with mock.patch.object(loop._Training, "_step", watched):
            yield
    else:
        yield


def smoke(session: Session, name: str, precision: str) -> dict[str, Any]:
    """Three steps of training and one evaluation."""
    config = session.small_network(name)
    preset = Preset(config, PRESETS["small32"].training, SamplerConfig(), 0.5, "smoke")
    training = {"budget": 24, "batch": 8, "precision": precision, "warmup": 0, "snapshot_every": 24, "log_every": 8}
    training |= {"microbatch": "auto", "checkpoint_gradients": precision == "fp32"}
    recipe = CASD(preset, augment=0.12 if config.augment_dim else 0.0, **training).recipe(
        random_mix(config.channels, config.resolution)
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        with steps_that_wait_for_nothing(session.device):
            loop.train(recipe, random_mix(config.channels, config.resolution), run, Processes(0, 1, session.device))
        losses = [record["loss"] for record in run.read_log()]

    def make(device: torch.device) -> EDMDenoiser:
        denoiser = denoiser_of(config).to(device)
        denoiser.autocast = None if device.type == "cpu" or precision == "fp32" else DTYPES[precision]
        return denoiser

    def channels_last(device: torch.device) -> EDMDenoiser:
        return make(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    difference = max(against_cpu(session, build, config, source=0) for build in (make, channels_last))
    return {"losses": losses, "difference": difference, "ok": difference < TOLERANCE[precision]}


def guidances(session: Session) -> dict[str, Any]:
    """Every guidance against the CPU's."""
    config = replace(session.network("small32"), model_channels=32)
    base, other = (denoiser_of(config, 2, 3, seed) for seed in (0, 1))
    near = copy.deepcopy(base)
    with torch.no_grad():
        list(near.network.dec.parameters())[-1].add_(0.1)

    def logits(x: torch.Tensor, sigma: Any = None) -> torch.Tensor:
        return torch.stack([x.square().mean((1, 2, 3)) * factor for factor in (1.0, 2.0, 3.0)], dim=1)

    made: dict[str, Callable[[EDMDenoiser, EDMDenoiser, EDMDenoiser], Any]] = {
        "extrapolation": lambda one, two, close: Extrapolation(one, two, 1.0),
        "shared encoder": lambda one, two, close: SharedEncoder(one, close, 1.0),
        "merged": lambda one, two, close: merged(one, (two, 1.0)),
        "source": lambda one, two, close: SourceGuidance(one, 1.0),
        "classifier-free": lambda one, two, close: ClassifierFreeGuidance(one, 1.0),
        "perturbed attention": lambda one, two, close: perturbed_attention_guidance(one, 1.0),
        "classifier": lambda one, two, close: ClassifierGuidance(one, logits, 1.0),
        "discriminator": lambda one, two, close: DiscriminatorGuidance(one, lambda x, sigma, **_: logits(x)[:, 0], 1.0),
    }
    found = {}
    for name, build in made.items():
        condition: dict[str, Any] = {} if name == "source" else {"source": 0}

        def make(device: torch.device, build: Any = build) -> Any:
            return build(*(copy.deepcopy(each).to(device) for each in (base, other, near)))

        labels = torch.tensor([0, 2])
        found[name] = against_cpu(session, make, config, class_label=labels, **condition)
    return {"differences": found, "ok": max(found.values()) < 5 * TOLERANCE["fp32"]}


def under_torchrun(session: Session) -> dict[str, Any]:
    """A short training in DistributedDataParallel of one process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
        command += ["nomadiff", "train", "--real", "digits:pool", "--synthetic", "close=digits:close"]
        command += ["--preset", "digits", "--budget", "1k", "--out", f"{folder}/run", "--device", session.device.type]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {"ok": done.returncode == 0, "said": (done.stderr or done.stdout)[-300:] if done.returncode else ""}


def network_alone(session: Session, name: str, precision: str, layout: str, kind: str) -> dict[str, Any]:
    """Forward and backward of the network: eager, compiled, or replayed as a CUDA graph."""
    config, batch = session.network(name), session.batch(name)
    network = build_network(config, 2).to(session.device).train()
    if layout == "channels last":
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, config.channels, config.resolution, config.resolution, device=session.device)
    noise, labels = (
        torch.randn(batch, device=session.device),
        torch.eye(2, device=session.device)[[0, 1] * (batch // 2)],
    )
    # a graph must not keep weights that autocast has converted once
    half = partial(torch.autocast, session.device.type, DTYPES[precision], cache_enabled=kind != "graph")
    run: Any = torch.compile(network) if kind == "compiled" else network
    with kernels_by_trial(session.device):
        if kind == "graph":
            with half():
                run = torch.cuda.make_graphed_callables(network, (x, noise, labels))

        def step() -> None:
            with half(enabled=precision != "fp32"):
                output = run(x, noise, labels)
            output.float().square().mean().backward()
            network.zero_grad(set_to_none=True)

        start = time.perf_counter()
        step()
        session.synchronise()
        first = time.perf_counter() - start
        seconds = session.seconds(step)
    return {"batch": batch, "first_s": round(first, 1), **rate(session, config, batch / seconds, 3)}


def profile(session: Session, name: str, precision: str, kind: str) -> dict[str, Any]:
    """Milliseconds of a step of the shipped loop: by the clock, on the device, and by kernel, the longest first."""
    on_gpu = session.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    profiler, warm, steps = torch.profiler.profile(activities=[activity]), 5, 3
    step, times = loop._Training._step, []

    def watched(self: Any, meter: Any) -> None:
        if len(times) == warm:
            session.synchronise()
            profiler.start()
        times.append(time.perf_counter())
        step(self, meter)
        if len(times) == warm + steps:
            session.synchronise()
            times.append(time.perf_counter())
            profiler.stop()

    with mock.patch.object(loop._Training, "_step", watched):
        training(session, name, precision, kind, steps=warm + steps + 1)
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [
        (event.key[:110], getattr(event, spent) / 1000 / steps, event.count // steps)
        for event in profiler.key_averages()
    ]
    found = sorted((each for each in found if each[1] > 0), key=lambda each: -each[1])
    return {
        "step_ms": round((times[warm + steps] - times[warm]) * 1000 / steps, 2),
        "busy_ms": round(sum(milliseconds for _, milliseconds, _ in found), 2),
        "launches": sum(count for *_, count in found),
        "kernels": [[key, round(milliseconds, 3), count] for key, milliseconds, count in found[:25]],
    }


def same_images(session: Session) -> dict[str, Any]:
    """Images in batches of all, of seven and of one, and on the CPU: largest and mean difference in levels of 255."""
    config = session.small_network("compact32")
    model_of = {}
    for device in (torch.device("cpu"), session.device):
        denoiser = denoiser_of(config).to(device)
        model_of[device] = Model(
            denoiser, CASD(session.preset("compact32")).recipe(random_mix(3, config.resolution)), device=device
        )
    found = {}
    drawn = {
        size: model_of[session.device].sample(14, batch_size=size, sampler=SamplerConfig(steps=18))
        for size in (14, 7, 1)
    }
    drawn["cpu"] = model_of[torch.device("cpu")].sample(14, sampler=SamplerConfig(steps=18))
    for name in (7, 1, "cpu"):
        difference = (drawn[name].int() - drawn[14].int()).abs().float()
        found[str(name)] = [int(difference.max()), round(float(difference.mean()), 4)]
    return {"levels": found, "ok": max(most for most, _ in found.values()) <= 3}


def same_training(session: Session, kind: str) -> dict[str, Any]:
    """A hundred steps of compact32 in fp32 as they are, as a CUDA graph, or compiled: losses, and images a second."""
    mix, runs = random_mix(3, 32), {}
    for way in ("plain", kind):
        options: dict[str, Any] = {"budget": 6_400, "batch": 64, "precision": "fp32", "warmup": 640}
        recipe = CASD("compact32", log_every=640, snapshot_every=10**12, compile=way == "compiled", **options).recipe(
            mix
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(loop, "is_launch_bound", lambda *_, way=way: way == "graph"),
        ):
            run = RunFolder(Path(folder) / "run")
            loop.train(recipe, mix, run, Processes(0, 1, session.device))
            runs[way] = run.read_log()
    apart = max(abs(one["loss"] - other["loss"]) / one["loss"] for one, other in zip(*runs.values()))
    speeds = {way: statistics.median(record["images_per_second"] for record in log[1:]) for way, log in runs.items()}
    return {"loss_apart": apart, "images_per_second_each": speeds, "ok": apart < 1e-3}


def norms(session: Session) -> dict[str, Any]:
    """Group norm with SiLU: relative errors of output and gradients, and milliseconds of forward and backward."""
    errors: dict[str, float] = {}
    ways = (
        ("fused", "channels last", "contiguous") if session.device.type == "cuda" else ("channels last", "contiguous")
    )

    def made(way: str, x: torch.Tensor, layer: torch.nn.GroupNorm) -> torch.Tensor:
        if way == "fused":
            return layer(x, silu=True)
        weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
        return torch.nn.functional.silu(torch.nn.functional.group_norm(x, layer.num_groups, weight, bias, layer.eps))

    def prepared(way: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        x = (torch.randn(shape, device=session.device) * 2 + 1).to(dtype)
        layout = torch.contiguous_format if way == "contiguous" else torch.channels_last
        return x.contiguous(memory_format=layout).requires_grad_()

    sides = ((8, 32, 16), (4, 192, 16), (3, 384, 8), (2, 768, 8))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for batch, channels, side in sides:
            layer = group_norm(channels, 1e-6).to(session.device)
            torch.nn.init.normal_(layer.weight)
            exact = copy.deepcopy(layer).double()
            x = prepared(ways[0], (batch, channels, side, side), dtype)
            y = made(ways[0], x, layer)
            pull, wide = torch.randn_like(y), x.detach().double().requires_grad_()
            truth = made("contiguous", wide, exact)
            found = [y, *torch.autograd.grad(y, [x, *layer.parameters()], pull)]
            expected = [truth, *torch.autograd.grad(truth, [wide, *exact.parameters()], pull.double())]
            worst = max(float(((one - two).norm() / two.norm()).detach()) for one, two in zip(found, expected))
            errors[str(dtype)] = max(errors.get(str(dtype), 0.0), worst)
    milliseconds = {}
    batch, channels, side = (2, 32, 8) if session.toy else (512, 256, 32)
    layer = group_norm(channels, 1e-6).to(session.device)
    for way in ways:
        x = prepared(way, (batch, channels, side, side), DTYPES["bf16"])
        pull = torch.randn_like(x)
        seconds = session.seconds(
            lambda way=way, x=x, pull=pull: torch.autograd.grad(made(way, x, layer), x, pull), 1.0
        )
        milliseconds[way] = round(1000 * seconds, 2)
    return {
        "errors": errors,
        "milliseconds": milliseconds,
        "ok": max(errors.values()) < 8e-3 and errors["torch.float32"] < 1e-5,
    }


def several(session: Session, processes: int) -> dict[str, Any]:
    """So many trainings at once of compact32 on photographs that are random: images a second together."""
    budget, lines = 1_280 if session.toy else 32_000, []
    code = (
        "import sys, time; sys.argv[0] = 'gpu_session.py'; sys.path.insert(0, sys.argv[1]);"
        "import gpu_session as g; from pathlib import Path; import torch;"
        "print(g.trained_alone(int(sys.argv[2]), torch.device(sys.argv[3]), sys.argv[4] == 'toy'))"
    )
    given = [str(ROOT / "scripts"), str(budget), str(session.device), "toy" if session.toy else "real"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for each in running:
        said, wrong = each.communicate(timeout=200)
        if each.returncode:
            raise RuntimeError(wrong.strip().splitlines()[-1])
        lines.append(float(said.strip().splitlines()[-1]))
    return {"processes": processes, "images_per_second": round(sum(lines), 1), "each": [round(each) for each in lines]}


def trained_alone(budget: int, device: torch.device, toy: bool) -> float:
    """Images a second of one training of compact32, after its first tenth."""
    session = Session(device, toy, Path(), None, None)
    preset, mix = session.preset("compact32"), random_mix(3, 8 if toy else 32)
    recipe = CASD(preset, budget=budget, log_every=budget // 10, snapshot_every=10**12).recipe(mix)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        loop.train(recipe, mix, run, Processes(0, 1, device))
        return statistics.median(record["images_per_second"] for record in run.read_log()[1:])


def rate(session: Session, config: NetworkConfig, images: float, passes: float) -> dict[str, Any]:
    """Images a second, share of the peak, memory."""
    flops = passes * flops_of(config, 2) * images
    return {"images_per_second": round(images, 1), "share": session.share(flops), "memory_gib": session.memory()}


def training(session: Session, name: str, precision: str, kind: str, steps: int = 24) -> dict[str, Any]:
    """The shipped loop, eager, compiled or as in a long training, with cuDNN's trials: images a second from its log."""
    preset, batch = session.preset(name), session.batch(name)
    steps = min(steps, 12) if session.toy else steps
    mix = random_mix(preset.network.channels, preset.network.resolution)
    options: dict[str, Any] = {"budget": steps * batch, "batch": batch, "precision": precision}
    options["log_every"] = max(steps // 4, 1) * batch
    options["compile"] = kind == "compiled"
    options["warmup"] = 0  # at a learning rate of zero the labels would seem to be ignored
    recipe = CASD(preset, snapshot_every=10**12, **options).recipe(mix)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        with kernels_by_trial(session.device) if kind == "trials" else nullcontext():
            loop.train(recipe, mix, run, Processes(0, 1, session.device))
        speeds = [record["images_per_second"] for record in run.read_log()]
    return {"batch": batch, **rate(session, preset.network, statistics.median(speeds[1:-1] or speeds), 3)}


def sampling(session: Session, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """`Model.sample`, noise to bytes on the host, in the given precision."""
    preset, batch = session.preset(name), session.batch(name)
    config = preset.network
    denoiser = denoiser_of(config).to(session.device)
    if compiled:
        denoiser.network.compile()
    recipe = CASD(preset).recipe(random_mix(config.channels, config.resolution))
    model = Model(denoiser, recipe, device=session.device)
    sampler = SamplerConfig(steps=2 if session.toy else 18)

    def run() -> None:
        model.sample(batch, sampler=sampler, batch_size=batch, precision=precision)

    seconds = session.seconds(run, most=4.0)
    return {"batch": batch, "nfe": sampler.nfe, **rate(session, config, batch / seconds, sampler.nfe)}


def noise(session: Session) -> dict[str, Any]:
    """The noise that sampling starts from, made on the host and moved: how many images a second it allows."""
    count = 64 if session.toy else 4096

    def run() -> None:
        SampleNoise(0, range(count)).normal((3, 32, 32)).to(session.device)

    return {"batch": count, "images_per_second": round(count / session.seconds(run), 1)}


def edm_network(session: Session, config: NetworkConfig) -> Any:
    """EDM's own network of the same configuration, in half precision; its code is read from the given checkout."""
    from against_edm import their_network

    sys.path.insert(0, str(session.edm))
    from training.networks import EDMPrecond

    return their_network(EDMPrecond, config, session.device)


def edm(session: Session, name: str) -> dict[str, Any]:
    """Forward and backward of EDM's network, with the cuDNN setting of its training."""
    config, batch = session.network(name), session.batch(name)
    model = edm_network(session, config).train()
    x = torch.randn(batch, config.channels, config.resolution, config.resolution, device=session.device)
    sigma = torch.rand(batch, device=session.device) + 0.1

    def step() -> None:
        model(x, sigma).float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    with kernels_by_trial(session.device):
        seconds = session.seconds(step)
    return {"batch": batch, **rate(session, config, batch / seconds, 3)}


def edm_sampling(session: Session, name: str) -> dict[str, Any]:
    """EDM's sampler, noise to bytes on the host."""
    config, batch = session.network(name), session.batch(name)
    model = edm_network(session, config).eval().requires_grad_(False)
    from generate import edm_sampler

    steps = 2 if session.toy else 18
    shape = (batch, config.channels, config.resolution, config.resolution)

    def run() -> None:
        images = edm_sampler(model, torch.randn(shape, device=session.device), num_steps=steps)
        (images * 127.5 + 128).clip(0, 255).to(torch.uint8).cpu()

    nfe = 2 * steps - 1
    seconds = session.seconds(run, most=4.0)
    return {"batch": batch, "nfe": nfe, **rate(session, config, batch / seconds, nfe)}


def guided_cost(session: Session, name: str) -> dict[str, Any]:
    """Seconds of guided sampling over the base's, for every way to combine two networks (benchmarks/guidance.py)."""
    import guidance

    found = guidance.measure(name, session.device, 2 if session.toy else session.batch(name) // 4, 3, 18)
    return {"times_base": {row["way"]: round(row["seconds"] / found[0]["seconds"], 3) for row in found}}


def plane(session: Session) -> dict[str, Any]:
    """A SIMS generation of many loops of points together: base, own samples, auxiliary, samples."""
    from nomadiff.loops.algorithm import LoopData
    from nomadiff.plane.algorithms import plane_algorithm
    from nomadiff.plane.learner import Learner, learner_config
    from nomadiff.plane.worlds import world

    runs = 4 if session.toy else 1000
    config = learner_config("P2")
    if session.toy:
        config = replace(config, base=replace(config.base, epochs=1), auxiliary=replace(config.auxiliary, epochs=1))
    learner = Learner(config, "torch" if session.device.type == "cpu" else str(session.device))
    points = world("gaussian").sample(1125, seed=1)[None].repeat(runs, axis=0)
    seeds = tuple(range(runs))
    start = time.perf_counter()
    model = plane_algorithm("sims", learner, 1.0).fit(LoopData(points), seed=seeds)
    model.sample(200 if session.toy else 2000, seeds)
    return {"runs": runs, "seconds": round(time.perf_counter() - start, 2), "memory_gib": session.memory()}


def jobs(session: Session) -> list[Job]:
    """Everything but the study, in order of priority."""
    on_gpu = session.device.type == "cuda"
    half = "bf16"
    listed: list[Job] = []

    def add(name: str, seconds: float, call: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        listed.append(Job(name, seconds, partial(call, session, *arguments)))

    for family in FAMILIES:
        for precision in ("fp32", "bf16", "fp16") if on_gpu else ("fp32", "bf16"):
            add(f"smoke {family} {precision}", 4, smoke, family, precision)
    add("smoke guidance", 8, guidances)
    add("norm", 10, norms)
    add("same images", 5, same_images)
    if on_gpu:
        add("same training graph", 20, same_training, "graph")
    for name in MEASURED[:3]:
        add(f"train {name} {half} eager", 12, training, name, half, "eager")
        if on_gpu:
            add(f"train {name} {half} trials", 35, training, name, half, "trials")
            add(f"train {name} {half} compiled", 40, training, name, half, "compiled")
        add(f"sample {name} {half} eager", 12, sampling, name, half, False)
        add(f"profile {name} {half} eager", 12, profile, name, half, "eager")
        ways = [("channels last", "eager"), ("contiguous", "eager")]
        if on_gpu:  # compiling takes minutes on a CPU, which has no graphs
            ways += [("channels last", "graph"), ("channels last", "compiled")]
        for layout, kind in ways:
            add(
                f"net {name} {half} {layout} {kind}",
                40 if kind == "compiled" else 8,
                network_alone,
                name,
                half,
                layout,
                kind,
            )
        if session.edm is not None:
            add(f"edm {name} fp16", 10, edm, name)
            add(f"edm sample {name} fp16", 15, edm_sampling, name)
    for processes in (1, 2) if session.toy else (1, 13):
        add(f"several {processes}", 25, several, processes)
    add("noise", 5, noise)
    add("guidance cost", 20, guided_cost, "digits" if session.toy else "small32")
    add("plane", 20, plane)
    add("smoke torchrun", 30, under_torchrun)
    for name in MEASURED[3:]:
        add(f"train {name} {half} eager", 20, training, name, half, "eager")
        add(f"sample {name} {half} eager", 20, sampling, name, half, False)
    if on_gpu:
        add("profile cifar10 bf16 compiled", 40, profile, "cifar10", half, "compiled")
        add("sample cifar10 bf16 compiled", 40, sampling, "cifar10", half, True)
        add("same training compiled", 60, same_training, "compiled")
    add("train cifar10 fp32 eager", 15, training, "cifar10", "fp32", "eager")
    add("sample cifar10 fp32 eager", 15, sampling, "cifar10", "fp32", False)
    return listed


STUDIES = {"casd-table-3": ("--seeds", "0", "1"), "casd-table-2": ("--seeds", "0")}
"""The photographic studies, and their seeds. An H200 took the 13 trainings at 9,000 images/s together."""


def study(session: Session, seconds: float) -> dict[str, Any]:
    """The photographic studies side by side, stopped in order when the time is over."""
    running = {}
    for name, given in STUDIES.items():
        command = [sys.executable, "-m", "nomadiff", "reproduce", name, "--scale", "medium", *given, "--processes", "7"]
        command += ["--data", str(session.data), "--out", str(session.out / name), "--device", str(session.device)]
        log = (session.out / f"{name}.log").open("a")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in running.values()):
        time.sleep(1)
    for process in running.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    return {"ended": {name: process.wait(timeout=60) for name, process in running.items()}}


def report(session: Session, records: list[dict[str, Any]], head: str) -> str:
    """All jobs as one Markdown table."""
    columns = ("batch", "images_per_second", "share", "memory_gib", "first_s", "difference", "seconds", "ok", "error")
    lines = [head, "", "| job | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for record in records:
        cells = [str(record.get(column, "")).replace("|", "/").replace("\n", " ")[:120] for column in columns]
        lines.append(f"| {record['job']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default="", help="jobs whose names match this regular expression")
    parser.add_argument("--data", type=Path, help="folder of the studies' files; without it they are left out")
    parser.add_argument("--edm", type=Path, help="a checkout of NVlabs/edm to measure beside")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny networks, to rehearse")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    device = torch.device(arguments.device)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    session = Session(device, arguments.toy, arguments.out, arguments.data, arguments.edm)
    arguments.out.mkdir(parents=True, exist_ok=True)
    journal = arguments.out / "jobs.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    driver = f", driver {_driver()}" if device.type == "cuda" else ""
    head = f"{describe_machine(device)}{driver}; `{' '.join(['python', *sys.argv])}`"

    def keep(name: str, found: dict[str, Any]) -> None:
        record = {"job": name, "at": time.strftime("%Y-%m-%d %H:%M:%S"), **found}
        records.append(record)
        with journal.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        (arguments.out / "report.md").write_text(report(session, records, head))
        print(json.dumps(record), flush=True)

    done = {record["job"] for record in records}
    for job in jobs(session):
        if job.name in done or not re.search(arguments.only, job.name) or time.monotonic() + job.seconds > end:
            continue
        start = time.monotonic()
        try:
            found = job.run()
        except Exception as error:  # one job that fails must not cost the others their minutes
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        keep(job.name, {**found, "took_s": round(time.monotonic() - start, 1)})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    left = end - time.monotonic()
    if arguments.data is not None and left > 30 and re.search(arguments.only, "study"):
        keep("study", study(session, left - 20))


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
