"""Jobs for a short session on a GPU: smoke tests, speeds, two-dimensional loops, then the photographic study.

    python scripts/gpu_session.py OUT [--minutes 9] [--data FOLDER] [--edm CHECKOUT]
    python scripts/gpu_session.py OUT --toy --device cpu --minutes 2     a rehearsal with tiny networks

It needs this checkout (``PYTHONPATH=src``) and the packages of ``pip install .``; nothing is fetched. Jobs run in order
of priority, each at most once: OUT/jobs.jsonl gets a line as soon as one ends, a job that fails is recorded with its
error, and the same command continues. OUT/report.md is written anew after every job. Jobs:

* smoke: for every family of networks and precision three training steps, of which all but the first must not wait for
  the device (--microbatch auto; gradients checkpointed in fp32), and one evaluation, channels last or not, against the
  CPU's in fp32; every guidance against the CPU's; one training under torchrun (DistributedDataParallel of one);
* net: forward and backward of a preset's network alone, eager and compiled, channels last or not: what the training
  loop could reach;
* train: the shipped training loop, images a second, and memory; eager, and with blocks compiled;
* sample: `Model.sample`, images a second, eager and compiled, in the given precision; noise: what it starts from;
* edm: the same forward and backward, and its sampler, with NVlabs/edm's network of the same configuration, if a
  checkout is given;
* guidance cost: sampling with two networks over sampling with one, in every way;
* plane: one generation of 1,000 loops of points in the plane, together;
* study: ``nomadiff reproduce casd-table-3 --scale medium`` with FOLDER's files, for the minutes that are left.

"share" is FLOP a second (a backward pass counts as two forward ones) over the card's dense bf16 peak by its data sheet,
or over the largest matrix product measured here where the card is not known.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from nomadiff.networks.presets import NETWORKS  # noqa: E402
from nomadiff.processes import Processes  # noqa: E402
from nomadiff.sampling.sampler import SamplerConfig  # noqa: E402
from nomadiff.seeding import SampleNoise  # noqa: E402
from nomadiff.training import loop  # noqa: E402
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
        config = PRESETS[name].network if name in PRESETS else NETWORKS[name]
        if not self.toy:
            return config
        small = {"resolution": 8, "model_channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": ()}
        return replace(config, **small, channels_per_head=32)

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

    def seconds(self, call: Callable[[], Any], most: float = 6.0) -> float:
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
    config = session.network(name)
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


def network_alone(session: Session, name: str, precision: str, layout: str, compiled: bool) -> dict[str, Any]:
    """Forward and backward of the network."""
    config, batch = session.network(name), session.batch(name)
    network = build_network(config, 2).to(session.device).train()
    if layout == "channels last":
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = torch.compile(network) if compiled else network
    x = torch.randn(batch, config.channels, config.resolution, config.resolution, device=session.device)
    noise, labels = (
        torch.randn(batch, device=session.device),
        torch.eye(2, device=session.device)[[0, 1] * (batch // 2)],
    )

    def step() -> None:
        with torch.autocast(session.device.type, DTYPES[precision], enabled=precision != "fp32"):
            output = run(x, noise, labels)
        output.float().square().mean().backward()
        network.zero_grad(set_to_none=True)

    start = time.perf_counter()
    step()
    session.synchronise()
    first = time.perf_counter() - start
    seconds = session.seconds(step)
    return {"batch": batch, "first_s": round(first, 1), **rate(session, config, batch / seconds, 3)}


def rate(session: Session, config: NetworkConfig, images: float, passes: float) -> dict[str, Any]:
    """Images a second, share of the peak, memory."""
    flops = passes * flops_of(config, 2) * images
    return {"images_per_second": round(images, 1), "share": session.share(flops), "memory_gib": session.memory()}


def training(session: Session, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """The shipped loop: images a second from the middle of the log."""
    preset, batch = session.preset(name), session.batch(name)
    steps = 4 if session.toy else 24
    mix = random_mix(preset.network.channels, preset.network.resolution)
    options = {"budget": steps * batch, "batch": batch, "precision": precision, "log_every": steps // 4 * batch}
    options["compile"] = "on" if compiled else "off"
    options["warmup"] = 0  # at a learning rate of zero the labels would seem to be ignored
    recipe = CASD(preset, snapshot_every=10**12, **options).recipe(mix)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
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

    seconds = session.seconds(run, most=10.0)
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
    """Forward and backward of EDM's network."""
    config, batch = session.network(name), session.batch(name)
    model = edm_network(session, config).train()
    x = torch.randn(batch, config.channels, config.resolution, config.resolution, device=session.device)
    sigma = torch.rand(batch, device=session.device) + 0.1

    def step() -> None:
        model(x, sigma).float().square().mean().backward()
        model.zero_grad(set_to_none=True)

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
    seconds = session.seconds(run, most=10.0)
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
            add(f"smoke {family} {precision}", 8, smoke, family, precision)
    add("smoke guidance", 8, guidances)
    for name in MEASURED[:3]:
        add(f"train {name} {half} eager", 12, training, name, half, False)
        if on_gpu:
            add(f"train {name} {half} compiled", 60, training, name, half, True)
        add(f"sample {name} {half} eager", 12, sampling, name, half, False)
        for layout, compiled in (("channels last", False), ("contiguous", False), ("channels last", True)):
            if compiled and not on_gpu:  # minutes each on a CPU
                continue
            kind = "compiled" if compiled else "eager"
            add(
                f"net {name} {half} {layout} {kind}", 40 if compiled else 8, network_alone, name, half, layout, compiled
            )
        if session.edm is not None:
            add(f"edm {name} fp16", 10, edm, name)
            add(f"edm sample {name} fp16", 15, edm_sampling, name)
    add("noise", 5, noise)
    add("guidance cost", 20, guided_cost, "digits" if session.toy else "small32")
    add("plane", 20, plane)
    add("smoke torchrun", 30, under_torchrun)
    for name in MEASURED[3:]:
        add(f"train {name} {half} eager", 20, training, name, half, False)
        add(f"sample {name} {half} eager", 20, sampling, name, half, False)
    if on_gpu:
        add("sample cifar10 bf16 compiled", 40, sampling, "cifar10", half, True)
    add("train cifar10 fp32 eager", 15, training, "cifar10", "fp32", False)
    add("sample cifar10 fp32 eager", 15, sampling, "cifar10", "fp32", False)
    return listed


def study(session: Session, seconds: float) -> dict[str, Any]:
    """The photographic study, stopped in order when the time is over."""
    out = session.out / "casd-table-3"
    command = [sys.executable, "-m", "nomadiff", "reproduce", "casd-table-3", "--scale", "medium", "--seeds", "0"]
    command += ["--seeds", "1", "--data", str(session.data), "--out", str(out), "--device", str(session.device)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    return {"returncode": process.returncode, "said": said[-2000:], "finished": process.returncode == 0}


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
    parser.add_argument("--data", type=Path, help="folder of the study's files; without it the study is left out")
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
        if job.name in done or time.monotonic() + job.seconds > end:
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
    if arguments.data is not None and left > 30:
        keep("study", study(session, left - 20))


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
