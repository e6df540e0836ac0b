"""What ``test_several_processes.py`` runs under torchrun: many trainings after one start."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.registry import METHODS
from nomadiff.monitoring.history import History
from nomadiff.monitoring.settings import Monitoring
from nomadiff.networks.presets import NETWORKS
from nomadiff.processes import Processes, join_processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training import loop
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.presets import PRESETS, Preset
from nomadiff.training.run_folder import RunFolder


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one piece: torchrun's output is not buffered, and print writes the end later
    sys.stdout.flush()


def source(name: str, seed: int) -> ImageSource:
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageSource(name, images, torch.arange(40) % 3, {"name": name, "content_hash": f"{name}-{seed}"})


def preset_of(name: str) -> Preset:
    return PRESETS.get(name) or replace(PRESETS["digits"], network=NETWORKS[name])


def recipe(mix: SourceMix, name: str, *, classes: bool = False, **changes: Any) -> RunConfig:
    """The recipe of a preset, or of a network that has none, for digits: small, but its architecture and training."""
    preset = preset_of(name)
    small = {"resolution": 8, "channels": 1, "model_channels": 16, "channel_mult": (1, 2), "blocks": 1}
    network = replace(preset.network, **small, attention=(4,), channels_per_head=8)
    training = replace(
        preset.training, budget=48, batch=16, warmup=16, snapshot_every=32, log_every=16, microbatch=None, **changes
    )
    method = METHODS["casd"](Preset(network, training, SamplerConfig(steps=2), 0.5, "test"), class_labels=classes)
    return method.recipe(mix)


def families(workdir: Path) -> None:
    """Every preset, with and without augmentation and accumulation, and networks with a parameter that is not used."""
    group = join_processes("cpu")
    mix = SourceMix(source("real", 0), [source("made", 1)])

    def trained(label: str, config: RunConfig) -> None:
        denoiser = train(config, mix, RunFolder(workdir / label), group)
        weights = torch.cat([value.flatten().double() for value in denoiser.state_dict().values()])
        sums = group.gather(torch.stack([weights.sum(), weights.abs().sum()])[None])
        assert torch.isfinite(sums).all() and torch.equal(sums[0], sums[1]), f"{label}: the processes disagree"
        if group.is_main:
            tell(label)

    for name in {**PRESETS, **NETWORKS}:
        for augment in (0.0, 0.5) if preset_of(name).network.augment_dim else (0.0,):
            for microbatch in (None, 4):
                config = recipe(mix, name, classes=True, augment=augment)
                config = replace(config, training=replace(config.training, microbatch=microbatch, class_dropout=0.1))
                trained(f"{name}-{augment}-{microbatch}", config)
    build = RunConfig.build_denoiser

    def with_spare(self: RunConfig) -> Any:
        denoiser = build(self)
        denoiser.network.spare = nn.Linear(2, 2)
        return denoiser

    RunConfig.build_denoiser = with_spare  # type: ignore[method-assign]
    trained("spare-digits", recipe(mix, "digits"))
    trained("spare-edm2", recipe(mix, "edm2-tiny"))
    RunConfig.build_denoiser = build  # type: ignore[method-assign]


def monitored(workdir: Path) -> None:
    """Held-out loss, samples and scores are shared out; both processes decide alike, one writes."""
    group = join_processes("cpu")
    settings = Monitoring(validation=source("others", 3), grid=5, evaluate_every=16, evaluate_count=12, early_stop=3)
    preset = replace(PRESETS["digits"], sampler=SamplerConfig(steps=2))
    changes = {"budget": 64, "batch": 16, "warmup": 0, "snapshot_every": 16, "log_every": 16}
    method = METHODS["dm"](preset, **changes)
    method.fit(SourceMix(source("real", 0)), workdir / "monitored", device="cpu", monitoring=settings)
    rows = History(workdir / "monitored").rows
    losses = group.gather(torch.tensor([[row["held_out_loss"] for row in rows]]))
    assert torch.equal(losses[0], losses[1])
    if group.is_main:
        tell(f"monitored {len(rows)} {len(list((workdir / 'monitored' / 'grids').glob('*.png')))}")


def disagreements(workdir: Path) -> None:
    """What one process does alone, told by both: another folder, a folder with less in it, options, images."""
    group = join_processes("cpu")
    mix = SourceMix(source("real", 0), [source("made", 1)])
    other = SourceMix(source("real", 2), [source("made", 1)])
    config = recipe(mix, "digits")
    longer = config.with_budget(96)
    train(config, mix, RunFolder(workdir / "run"), group)
    if not group.is_main:
        RunFolder(workdir / "alone").begin(config, mix.provenance)
    cases = {
        "fresh": (config, mix, workdir / f"fresh{group.rank}"),
        "behind": (longer, mix, workdir / ("run" if group.is_main else "alone")),
        "options": (config if group.is_main else recipe(mix, "digits", learning_rate=0.1), mix, workdir / "options"),
        "images": (config, mix if group.is_main else other, workdir / "images"),
    }
    for name, (chosen, images, folder) in cases.items():
        try:
            train(chosen, images, RunFolder(folder), group)
        except UsageError as error:
            tell(f"{name} {group.rank}: {error}")


def counts(workdir: Path) -> None:
    """Runs begun by as many processes and gone on with by another number."""
    group = join_processes("cpu")
    alone = Processes(0, 1, group.device)
    mix = SourceMix(source("real", 0), [source("made", 1)])
    config = recipe(mix, "tiny", augment=0.3)
    parts = replace(config, training=replace(config.training, microbatch=4))

    def trained(name: str, config: RunConfig, budget: int, count: int) -> None:
        if count == 2 or group.is_main:
            train(config.with_budget(budget), mix, RunFolder(workdir / name), group if count == 2 else alone)
        group.barrier()

    for name, chosen, first, then in (
        ("two", config, 2, 2),
        ("two-one", config, 2, 1),
        ("parts-one", parts, 1, 1),
        ("parts-one-two", parts, 1, 2),
        ("one-two", config, 1, 2),
    ):
        trained(name, chosen, 32, first)
        try:
            trained(name, chosen, 64, then)
        except UsageError as error:
            tell(f"{name} {group.rank}: {error}")
    trained("one-two", config, 32, 2)  # finished: nothing is left to differ in
    trained("halves", replace(config, training=replace(config.training, microbatch=8)), 64, 1)


def verbs(out: Path) -> None:
    """Train, sample and evaluate, as on a command line."""
    device = ["--device", "cpu"]
    sources = ["--real", "digits:pool", "--synthetic", "close=digits:close", "--preset", "digits"]
    budget = ["--budget", "256", "--batch", "64", "--warmup", "64", "--snapshot-every", "128"]
    assert main(["train", *sources, *budget, *device, "--out", str(out / "run")]) == 0
    draw = ["--count", "600", "--steps", "2", "--batch-size", "64", "--out", str(out / "s.zip")]
    assert main(["sample", str(out / "run"), *draw, *device]) == 0
    os.environ["NOMADIFF_CACHE"] = str(out / "cache")
    os.chdir(out)
    assert main(["evaluate", "s.zip", "--reference", "digits:reference", *device, "--out", "m.json"]) == 0


def dying(arguments: list[str], owner: Any, name: str, call: int) -> int:
    """A verb whose process 1 is killed in the so-manyth call of a method."""
    original, count = getattr(owner, name), [0]

    def counted(self: Any, *args: Any) -> Any:
        count[0] += 1
        if os.environ["RANK"] == "1" and count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    setattr(owner, name, counted)
    return main(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *rest = sys.argv[1:]
    if what == "families":
        families(Path(rest[0]))
        monitored(Path(rest[0]))
        disagreements(Path(rest[0]) / "disagreements")
    elif what == "counts":
        counts(Path(rest[0]))
    elif what == "verbs":
        verbs(Path(rest[0]))
    else:
        for turn, *words in json.loads(what):
            if turn == "die":
                owner, name = (loop._Training, "_step") if words[0] == "train" else (Processes, "gather")
                sys.exit(dying(words, owner, name, 4))
            assert main(words) == 0  # continue: the same command, then another --out for comparison
            out = Path(words[-1])
            assert main([*words[:-1], str(out.with_name(f"whole-{out.name}"))]) == 0
