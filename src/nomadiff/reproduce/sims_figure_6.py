"""SIMS Figure 6: how much synthetic pollution of its training set a second generation tolerates.

Four scenarios (section 4.2.2), of which the first two do not depend on the pollution:

============  ======================================================================================================
``G1_ST-I``   first generation, standard training on real images D_r
``G1_SIMS-I`` SIMS with G1_ST-I as its base (the ideal: nothing is polluted)
``G2_ST-P``   second generation, standard training on D_r and the polluting D_p, samples of G1_ST-I taken for real
``G2_SIMS-P`` SIMS with G2_ST-P as its base
============  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.selection import parse_subset
from nomadiff.errors import UsageError
from nomadiff.files import atomic_path, write_text
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.jobs import run_jobs
from nomadiff.loops.algorithm import LoopData
from nomadiff.loops.images import ImageStandard
from nomadiff.loops.seeds import derived
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.detectors.features import images_sha256
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.dry_run import gpu_hours
from nomadiff.models.model import Model
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.reports.figures import keep_figure
from nomadiff.reproduce.data_files import CIFAR10, CIFAR10_TEST, FFHQ, NeededFile, file_lines
from nomadiff.reproduce.pollution import (
    SCENARIOS,
    pollution_figure,
    pollution_report,
    pollution_summary,
    pollution_text,
    threshold,
)
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.reproduce.sims_settings import DIGITS_SHORT
from nomadiff.reproduce.trials import scorer, scoring_seed
from nomadiff.tables import Table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import versions

__all__ = ["RECIPE"]

_FIRST, _POLLUTION, _SECOND, _IMPROVE_FIRST, _IMPROVE_SECOND, _REAL = range(6)
_SETS = ((CIFAR10, CIFAR10_TEST),)
"""Real images and held-out ones that are known by their names."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Sizes of one scale.

    Attributes:
        preset: network and training.
        budget: images every base sees; the same for both generations, as in the paper.
        changes: further training options.
        improvement: how SIMS fine-tunes.
        weights: guidance weights to choose from, at every snapshot of the fine-tuning.
        real_count: |D_r|.
        amounts: |D_p|, ascending.
        refinements: further amounts that the search for the threshold may try.
        count: samples a model is judged by.
        detector: feature space of the distance.
        seeds: independent repetitions.
    """

    preset: str
    budget: int
    changes: dict[str, Any]
    improvement: Improvement
    weights: tuple[float, ...]
    real_count: int
    amounts: tuple[int, ...]
    refinements: int
    count: int
    detector: str
    seeds: tuple[int, ...]


_QUICK = replace(DIGITS_SHORT, synthetic_count=32, budget=128)
# the base of 300 steps and its fine-tuning are those of the other SIMS recipes, fixed on other seeds
_DIGITS = {
    "smoke": _Scale(
        preset="digits",
        budget=256,
        changes={"batch": 64, "warmup": 64},
        improvement=_QUICK,
        weights=(1.0,),
        real_count=60,
        amounts=(30, 60),
        refinements=1,
        count=32,
        detector="digits",
        seeds=(10,),
    ),
    "small": _Scale(
        preset="digits",
        budget=38_400,
        changes={},
        improvement=replace(DIGITS_SHORT, budget=19_200, snapshots=2),
        weights=(0.5, 1.0, 2.0),
        real_count=1000,
        amounts=(125, 250, 500, 1000, 2000),
        refinements=2,
        count=1000,
        detector="digits",
        seeds=(10, 11, 12, 13),
    ),
}
# other images: a network of 1.2 M, far from trained at these budgets
_IMAGES = {
    "smoke": replace(
        _DIGITS["smoke"],
        preset="tiny",
        budget=32,
        changes={"batch": 16, "warmup": 16},
        improvement=replace(_QUICK, synthetic_count=16, budget=32),
        real_count=20,
        amounts=(20,),
        refinements=0,
        count=16,
        detector="pixels",
    ),
    "small": replace(
        _DIGITS["small"],
        preset="tiny",
        budget=10_000,
        changes={"warmup": 2_500},
        improvement=Improvement(synthetic_count=500, budget=2_500, snapshots=1),
        weights=(0.5, 1.0),
        real_count=500,
        amounts=(125, 250, 500),
        refinements=1,
        count=500,
        detector="pixels",
        seeds=(10, 11, 12),
    ),
}
_PAPER_FILES = (
    CIFAR10,
    FFHQ,
    NeededFile(
        "edm-cifar10-uncond-vp",
        "G1_ST-I of CIFAR-10, the folder that `nomadiff import` makes (CC BY-NC-SA 4.0)",
    ),
    NeededFile("edm-ffhq-uncond-vp", "G1_ST-I of FFHQ, likewise"),
)
_MI = 1_000_000
# data set, preset, |D_r|, tested |D_p|, images each second generation sees (FFHQ is fine-tuned), those of the auxiliary
_PAPER = (
    ("CIFAR-10", "cifar10", 50_000, (10_000, 20_000, 30_000, 40_000, 50_000), 200 * _MI, 40 * _MI),
    ("FFHQ-64", "ffhq64", 70_000, (7_000, 15_000, 30_000, 50_000, 70_000), 100 * _MI, 34 * _MI),
)


@dataclass(frozen=True)
class _Setting:
    """The input of a worker process."""

    scale: _Scale
    out: Path
    data: Path | None
    device: str | None

    def images(self) -> tuple[Tensor, Tensor]:
        """All real images that may be trained on, and held-out ones."""
        if self.data is None:
            return _real("digits:pool"), _real("digits:reference")
        for real, held_out in _SETS:
            if real.is_in(self.data) and held_out.is_in(self.data):
                return _real(real.path(self.data)), _real(held_out.path(self.data))
        images = _real(self.data)
        held = parse_subset(f"random:{max(1, len(images) // 3)}:0")(len(images), None)
        return images[np.setdiff1d(np.arange(len(images)), held)], images[held]

    def folder(self, seed: int) -> Path:
        return self.out / "runs" / f"seed-{seed}"

    def real(self, seed: int) -> np.ndarray:
        """D_r of one seed."""
        images = self.images()[0]
        chosen = parse_subset(f"random:{self.scale.real_count}:{derived(seed, _REAL) % (1 << 31)}")(len(images), None)
        return images[chosen].numpy()

    def judge(self) -> ReferenceSet:
        return ReferenceSet(self.images()[1], detector=self.scale.detector, device=self.device or "cpu")

    def train(self, data: LoopData, seed: int, folder: Path) -> Model:
        """Standard training: everything is taken for real."""
        scale = self.scale
        algorithm = ImageStandard(scale.preset, device=self.device, budget=scale.budget, **scale.changes)
        folder.mkdir(parents=True, exist_ok=True)
        return algorithm.fit(data, seed=seed, folder=folder).model

    def scores(self, base: Model, folder: Path, names: Sequence[str], seed: int, improve_seed: int) -> list[dict]:
        """The base and its best improvement, on noise that the improvement was not chosen by."""
        scale, against = self.scale, self.judge()
        metric = distance_name(against.detector)
        settings = replace(scale.improvement, weight=1.0, seed=improve_seed % (1 << 31))
        candidates = improve(base, folder, settings, device=self.device).candidates
        search = scorer(folder / "search", against, scale.count, scoring_seed(seed))
        fresh = scorer(folder / "fresh", against, scale.count, scoring_seed(seed, 1))
        tried = [(budget, weight) for budget in candidates.budgets for weight in scale.weights]

        def loss(candidate: tuple[int, float]) -> float:
            budget, weight = candidate
            return search(partial(candidates.make, budget, weight), budget=budget, weight=weight)[metric]

        budget, weight = min(tried, key=loss)
        plain = fresh(lambda: base, budget=0, weight=0.0)
        best = fresh(partial(candidates.make, budget, weight), budget=budget, weight=weight)
        return [{"scenario": name, "seed": seed, **row} for name, row in zip(names, (plain, best))]


def _real(spec: str | Path) -> Tensor:
    return ImageSource.open(spec, name="real", synthetic=False).pixels


def _first(setting: _Setting, seed: int) -> list[dict]:
    """The two scenarios without pollution; leaves D_p for the others."""
    folder = setting.folder(seed)
    base = setting.train(LoopData(setting.real(seed)), derived(seed, _FIRST), folder / "st-i")
    if not (folder / "polluting.npy").exists():
        images = base.sample(setting.scale.amounts[-1], derived(seed, _POLLUTION)).numpy()
        with atomic_path(folder / "polluting.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, images, allow_pickle=False)
    return setting.scores(base, folder / "sims-i", SCENARIOS[:2], seed, derived(seed, _IMPROVE_FIRST))


def _second(setting: _Setting, amount: int, seed: int) -> list[dict]:
    """The two scenarios with one amount of pollution. A larger D_p contains the smaller ones."""
    folder = setting.folder(seed)
    made = np.load(folder / "polluting.npy", allow_pickle=False)[:amount]
    # one seed for all amounts, another than the first generation's: it begins from weights of its own
    data, own = LoopData(setting.real(seed), (made,)), derived(seed, _SECOND)
    base = setting.train(data, own, folder / f"st-p-{amount}")
    improvement = derived(seed, _IMPROVE_SECOND)
    rows = setting.scores(base, folder / f"sims-p-{amount}", SCENARIOS[2:], seed, improvement)
    return [{"pollution": amount, **row} for row in rows]


def _setting(request: Request) -> _Setting:
    """What is asked for. None of the devices takes the CPU for digits, else a GPU if there is one.

    Raises:
        UsageError: too few images.
    """
    data = request.data
    sizes = (_DIGITS if data is None else _IMAGES)[request.scale]
    sizes = replace(sizes, seeds=request.seeds or sizes.seeds)
    setting = _Setting(sizes, request.out, data, request.device or ("cpu" if data is None else None))
    if len(setting.images()[0]) < sizes.real_count:
        raise UsageError(f"{data}: {sizes.real_count} real images are needed beside the held-out third")
    return setting


def _run(request: Request) -> Result:
    """Run the four scenarios and search the threshold.

    ``data`` are images instead of the digits: any folder, zip, npz or npy file (a third is held out), or a folder with
    CIFAR-10's two zips. Every seed has weights, noise and (if there are more than needed) real images of its own.

    Files: ``table`` (a row a model), ``summary`` (a row an amount), each JSON and CSV, ``figure`` (PNG and SVG),
    ``summary.md`` and ``report.html``.

    Raises:
        UsageError: the paper's scale, too few images, or the folder was begun with other settings.
    """
    if request.scale == "paper":
        raise UsageError("sims-figure-6 at the paper's scale is planned only: --dry-run prints files and GPU hours")
    out, setting, processes = request.out, _setting(request), request.processes
    if processes is None and join_processes(setting.device).device.type != "cpu":
        processes = 1  # a GPU is shared by the models of one process at a time
    sizes, (available, held_out) = setting.scale, setting.images()
    settings = asdict(sizes)
    settings.pop("seeds")  # more seeds extend a finished run
    about = {"scale": settings, "data": None if setting.data is None else setting.data.name}
    about |= {"held_out": images_sha256(held_out), "available": images_sha256(available)}

    def models(work: Callable[..., list[dict]], keys: Sequence[tuple[int, ...]], journal: str) -> list[dict]:
        found = run_jobs(partial(work, setting), keys, out / journal, about, processes=processes)
        return [row for rows in found.values() for row in rows]

    def polluted(amounts: Sequence[int]) -> list[dict]:
        return models(_second, [(amount, seed) for amount in amounts for seed in sizes.seeds], "second.jsonl")

    rows = models(_first, [(seed,) for seed in sizes.seeds], "first.jsonl")
    distance = distance_name(load_detector(sizes.detector))
    rows += _searched(sizes, rows, distance, polluted)
    meta = {"recipe": "sims-figure-6", "command": request.command, "versions": versions(), **about}
    table, summary = Table(rows, meta), Table(pollution_summary(rows, distance), meta)
    table.write(out / "table.json")
    summary.write(out / "summary.json")
    keep_figure(pollution_figure(rows, distance), out / "figure")
    text = pollution_text(about, rows, distance)
    write_text(out / "summary.md", text)
    pollution_report(table, text, distance, request.command).write(out / "report.html")
    return Result(table, text)


def _searched(
    sizes: _Scale, rows: list[dict], distance: str, polluted: Callable[[Sequence[int]], list[dict]]
) -> list[dict]:
    """Rows of the scale's amounts, and of amounts between the last that SIMS tolerates and the next."""
    found = polluted(sizes.amounts)
    for _ in range(sizes.refinements):
        tolerated, failed = threshold(pollution_summary([*rows, *found], distance), "sims_ratio")
        if failed is None or failed - tolerated <= max(1, sizes.real_count // 20):
            break
        found += polluted([(tolerated + failed) // 2])
    return found


def _plan(request: Request) -> str:
    if request.scale == "paper":
        return _paper_plan(request.data)
    setting = _setting(request)
    sizes = setting.scale
    amounts = len(sizes.amounts) + sizes.refinements
    pairs = len(sizes.seeds) * (1 + amounts)
    preset = preset_named(sizes.preset)
    images = pairs * (sizes.budget + (sizes.improvement.budget or 0))
    searched = len(sizes.weights) * sizes.improvement.snapshots
    samples = pairs * ((sizes.improvement.synthetic_count or 0) + (3 + 2 * searched) * sizes.count)
    forward = flops_of(replace(preset.network, resolution=setting.images()[0].shape[-1]))
    operations = forward * (3 * images + samples * preset.sampler.nfe)
    return "\n".join(
        [
            f"amounts:  {', '.join(map(str, sizes.amounts))} polluting images on {sizes.real_count} real ones, and up "
            f"to {sizes.refinements} more in search of the threshold",
            f"models:   {pairs} bases of {sizes.budget:,} images and as many improvements ({len(sizes.seeds)} seeds)",
            f"compute:  about {operations / 1e15:,.3g} PFLOP",
        ]
    )


def _paper_plan(data: Path | None) -> str:
    lines = file_lines(_PAPER_FILES, data)
    for name, preset, real, amounts, budget, auxiliary in _PAPER:
        chosen = preset_named(preset)
        forward = flops_of(chosen.network)
        runs = len(amounts)
        # own samples of every base; 4 weights at 4 budgets scored with 50,000 guided samples each
        samples = (runs + 1) * (100_000 + 16 * 2 * 50_000)
        operations = forward * (3 * (runs * budget + (runs + 1) * auxiliary) + samples * chosen.sampler.nfe)
        lines.append(
            f"{name}: {real:,} real images and {', '.join(f'{a:,}' for a in amounts)} polluting ones: {runs} second "
            f"generations of {budget // _MI} Mi, {runs + 1} auxiliaries of {auxiliary // _MI} Mi; "
            f"{operations / 1e18:,.3g} EFLOP, GPU hours: {gpu_hours({chosen.training.precision: operations})}"
        )
    lines.append(
        "judged by FID on 50,000 samples against the training set; best of 4 weights and 4 fine-tuning budgets"
    )
    return "\n".join(lines)


RECIPE = Recipe(
    name="sims-figure-6",
    description="SIMS Figure 6: two generations of images against the amount of pollution; the prophylactic threshold",
    scales=(*_DIGITS, "paper"),
    options=("data", "seeds", "processes", "device"),
    plan=_plan,
    run=_run,
)
