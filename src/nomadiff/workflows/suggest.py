"""What to train on given images on this machine, how long it takes, and what trouble to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import Interrupted, UsageError
from nomadiff.files import temporary_folder
from nomadiff.methods.registry import method_named
from nomadiff.models.dry_run import three_digits
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.progress import duration_text
from nomadiff.training.presets import PRESETS, presets_that_fit, proposed_preset
from nomadiff.training.run_folder import RunFolder

__all__ = ["Rate", "Suggestion", "suggest"]

_STEPS = 5  # the first is slower: memory and kernels are found then
_CORE, _GPU = 5e10, 2e13  # operations a second, for the size of the trial's batch alone
_LONGEST = 30 * 24  # hours of a training that somebody may still wait for
_COMPARED = ("cifar10", "ffhq64", "small32", "compact32", "compact64", "digits")

FEW_REAL = 1000
"""Below so many real images a model of them alone is expected to copy: one of 100 digits copies 92 % (docs/demo.md),
and CASD sections 4.2 and 4.4 see it with 1,000 faces."""

SMALL_SHARE = 0.05
"""Below this share of real images a network hardly learns their source. On digits 0.15 was best (docs/casd.md), on
photographs 0.25 to 0.5 is a little better than 0.09 (docs/natural.md)."""

FEW_PASSES = 300
"""At so many passes over 1,000 photographs a small model of them alone did not copy yet, and what synthetic images
had gained at a third of it was gone (docs/natural.md); digits are copied at 1,000 passes (docs/demo.md)."""


@dataclass(frozen=True)
class Rate:
    """How fast a preset trains here.

    Attributes:
        preset: its name.
        budget: images it is meant to see.
        images_per_second: measured.
    """

    preset: str
    budget: int
    images_per_second: float

    @property
    def hours(self) -> float:
        """Hours of its whole budget."""
        return self.budget / self.images_per_second / 3600

    @property
    def words(self) -> str:
        """How long its whole budget takes, for people."""
        told = duration_text(3600 * self.hours)
        return told if self.hours <= _LONGEST else f"not on this machine ({told})"


@dataclass(frozen=True)
class Suggestion:
    """What to train.

    Attributes:
        images: number of images of each source, by name.
        size: ``(channels, resolution)``.
        device: what the rates were measured on.
        method: "casd" with synthetic sources, "dm" without.
        preset: the preset to train.
        rates: presets that fit the images, as fast as they train here.
        real_share: share of real images in a batch, by CASD eq. 5.
        trouble: what to expect and what to do about it, a sentence each.
    """

    images: dict[str, int]
    size: tuple[int, int]
    device: str
    method: str
    preset: str
    rates: tuple[Rate, ...]
    real_share: float
    trouble: tuple[str, ...]

    @property
    def rate(self) -> Rate:
        """That of the suggested preset."""
        return next(rate for rate in self.rates if rate.preset == self.preset)

    def text(self) -> str:
        """The suggestion for people, one fact a line."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.images.items())
        training = PRESETS[self.preset].training
        lines = [
            f"images:   {counts} of {self.size[1]}x{self.size[1]}, {'grey' if self.size[0] == 1 else 'colour'}",
            f"method:   {self.method}",
            f"preset:   {self.preset} ({PRESETS[self.preset].description})",
            f"budget:   {training.budget:,} images, here: {self.rate.words}",
            f"augment:  {training.augment:g} (probability of each non-leaky augmentation; the preset's)",
            f"speed on {self.device}, measured:",
        ]
        lines += [
            f"    {rate.preset:10} {three_digits(rate.images_per_second):>7} images/s, "
            f"its {rate.budget:>10,} images: {rate.words}"
            for rate in self.rates
        ]
        if len(self.images) > 1:
            lines.append(f"share:    {self.real_share:.1%} of a batch are real: as many as of all images (CASD eq. 5)")
        lines += [f"expect:   {sentence}" for sentence in self.trouble]
        return "\n".join(lines)


def suggest(mix: MixSpec | SourceMix, *, device: str | None = None) -> Suggestion:
    """Suggest what to train on these images here; the speed is measured, some seconds a preset.

    Args:
        mix: real and synthetic images.
        device: where to train; None takes a GPU if there is one.

    Raises:
        UsageError, DataError: the images cannot be trained on together, or no preset fits them.
    """
    opened = mix.open() if isinstance(mix, MixSpec) else mix
    if opened.latents is not None:
        raise UsageError("suggest knows images; latents are trained with the presets imagenet512-edm2-s, -xs or -tiny")
    processes = join_processes(device)
    method = "casd" if len(opened.names) > 1 else "dm"
    chosen = proposed_preset(opened.resolution, opened.channels, processes.device)
    fitting = presets_that_fit(opened.resolution)
    names = [name for name in _COMPARED if name in fitting]
    rates = tuple(_measured(name, method, opened, processes.device) for name in names)
    return Suggestion(
        images={source.name: len(source) for source in opened.sources},
        size=(opened.channels, opened.resolution),
        device=_device_words(processes.device),
        method=method,
        preset=chosen,
        rates=rates,
        real_share=float(opened.shares[0]),
        trouble=tuple(_trouble(opened, PRESETS[chosen].training.budget)),
    )


def _measured(preset: str, method: str, mix: SourceMix, device: torch.device) -> Rate:
    """Train a few steps as the preset does, but in batches that take about half a second, and read the log."""
    budget = PRESETS[preset].training.budget
    recipe = method_named(method)(preset).recipe(mix)
    speed = _GPU if device.type == "cuda" else _CORE * torch.get_num_threads()
    images = 0.5 * speed / (3 * flops_of(recipe.network, recipe.sources))
    batch = min(recipe.training.batch, max(2, round(images)))
    trial = {"batch": batch, "budget": _STEPS * batch, "log_every": batch, "warmup": 0}
    with temporary_folder() as folder:
        out = folder / "run"
        try:
            method_named(method)(preset, **trial).fit(mix, out, device=str(device), description=f"try {preset}")
        except Interrupted as stopped:  # nothing of it is kept to go on from
            raise KeyboardInterrupt(stopped.args[1]) from None
        log = RunFolder(out).read_log()
    return Rate(preset, budget, median(line["images_per_second"] for line in log[1:]))


def _trouble(mix: SourceMix, budget: int) -> list[str]:
    """What is known to go wrong with such images."""
    real, *synthetic = mix.sources
    share, total = float(mix.shares[0]), sum(map(len, synthetic))
    told = []
    if len(real) < FEW_REAL:
        told.append(
            f"{len(real):,} real images are few: a model trained on them alone copies them (CASD section 4.4; 92 % of "
            "the samples in docs/demo.md); look at replication in evaluate --train"
        )
    passes = budget * share / len(real)
    if passes > 1000:
        told.append(f"every real image is seen {passes:,.0f} times: watch a held-out set, or use a smaller --budget")
    if synthetic and budget <= FEW_PASSES * len(real):
        told.append(
            f"this budget shows real images alone {budget / len(real):,.0f} times each: so early a model of them did "
            "not copy yet, and synthetic images gained little (docs/natural.md); a larger --budget may matter more"
        )
    if synthetic and share < SMALL_SHARE:
        told.append(f"at {share:.1%} of a batch the network hardly sees real images: try compare --real-fraction auto")
    if synthetic and total < len(real):
        told.append(
            f"{total:,} synthetic images beside {len(real):,} real ones may change little: CASD's Table 1 has 1 "
            "to 10 times as many"
        )
    for source in synthetic:
        if missing := sorted(real.class_counts.keys() - source.class_counts.keys()) if source.class_counts else []:
            told.append(
                f"{source.name} has no images of {_few(missing)}: see CASD section 4.3, and compare --method dm casd"
            )
    told.append(
        "whether synthetic images help is decided on real ones kept aside: nomadiff compare --reference HELD-OUT"
    )
    return told


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more classes" if len(names) > 4 else "")


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return "1 CPU thread" if threads == 1 else f"{threads} CPU threads"
