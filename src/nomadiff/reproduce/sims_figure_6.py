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
from dataclasses import asdict, replace
from functools import partial

from nomadiff.errors import UsageError
from nomadiff.files import write_text
from nomadiff.improve.settings import Improvement
from nomadiff.jobs import run_jobs
from nomadiff.metrics.detectors.features import images_sha256
from nomadiff.metrics.distance_names import distance_name
from nomadiff.models.dry_run import core_hours, gpu_hours
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.reports.figures import keep_figure
from nomadiff.reproduce.data_files import (
    CIFAR10,
    FFHQ,
    PHOTOGRAPHS,
    PHOTOGRAPHS_TEST,
    NeededFile,
    file_lines,
    require_files,
)
from nomadiff.reproduce.pollution import (
    pollution_figure,
    pollution_report,
    pollution_summary,
    pollution_text,
    threshold,
)
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.reproduce.sims_settings import DIGITS_SHORT, PHOTOS
from nomadiff.reproduce.two_generations import Generations, Sizes, first_generation, second_generation
from nomadiff.tables import Table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import versions

__all__ = ["RECIPE"]

_QUICK = replace(DIGITS_SHORT, synthetic_count=32, budget=128)
# the base of 300 steps and its fine-tuning are those of the other SIMS recipes, fixed on other seeds
_DIGITS = {
    "smoke": Sizes(
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
    "small": Sizes(
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
# photographs: 20, 60 and 200 % of pollution; nothing was tuned
_MEDIUM = Sizes(
    preset=PHOTOS.preset,
    budget=PHOTOS.base_budget,
    changes={},
    improvement=PHOTOS.improvement,
    weights=(0.5, 1.0),
    real_count=2000,
    amounts=(400, 1200, 4000),
    refinements=0,
    count=PHOTOS.count,
    detector=PHOTOS.detector,
    seeds=(10,),
)
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


def _setting(request: Request) -> Generations:
    """What is asked for. No device takes the CPU for digits, else a GPU if there is one."""
    sizes = ((_DIGITS if request.data is None else _IMAGES) | {"medium": _MEDIUM})[request.scale]
    sizes = replace(sizes, seeds=request.seeds or sizes.seeds)
    device = request.device or ("cpu" if sizes.preset == "digits" else None)
    setting = Generations(sizes, request.out, request.data, device)
    return replace(setting, named=(PHOTOGRAPHS, PHOTOGRAPHS_TEST)) if request.scale == "medium" else setting


def _files(request: Request) -> tuple[NeededFile, ...]:
    return {"medium": PHOTOS.files, "paper": _PAPER_FILES}.get(request.scale, ())


def _run(request: Request) -> Result:
    """Run the four scenarios and search the threshold.

    ``data`` are images instead of the digits: any folder, zip, npz or npy file (a third is held out), or a folder with
    CIFAR-10's two zips; at the scale "medium" a folder with CIFAKE's photographs. Every seed has weights, noise and (if
    there are more than needed) real images of its own.

    Files: ``table`` (a row a model), ``summary`` (a row an amount), each JSON and CSV, ``figure`` (PNG and SVG),
    ``summary.md`` and ``report.html``.

    Raises:
        UsageError: the paper's scale, too few images, or the folder was begun with other settings.
        DataError: files are missing.
    """
    if request.scale == "paper":
        raise UsageError("sims-figure-6 at the paper's scale is planned only: --dry-run prints files and GPU hours")
    if files := _files(request):  # at other scales the data are any images
        require_files("sims-figure-6", files, request.data)
    out, setting, processes = request.out, _setting(request), request.processes
    if processes is None and join_processes(setting.device).device.type != "cpu":
        processes = 1  # a GPU is shared by the models of one process at a time
    sizes, (available, held_out) = setting.sizes, setting.images()
    settings = asdict(sizes)
    settings.pop("seeds")  # more seeds extend a finished run
    about = {"scale": settings, "data": None if setting.data is None else setting.data.name}
    about |= {"held_out": images_sha256(held_out), "available": images_sha256(available)}

    def models(work: Callable[..., list[dict]], keys: Sequence[tuple[int, ...]], journal: str) -> list[dict]:
        found = run_jobs(partial(work, setting), keys, out / journal, about, processes=processes)
        return [row for rows in found.values() for row in rows]

    def polluted(amounts: Sequence[int]) -> list[dict]:
        return models(second_generation, [(amount, seed) for amount in amounts for seed in sizes.seeds], "second.jsonl")

    distance = distance_name(setting.detector())  # one that is missing is told before hours of training
    rows = models(first_generation, [(seed,) for seed in sizes.seeds], "first.jsonl")
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
    sizes: Sizes, rows: list[dict], distance: str, polluted: Callable[[Sequence[int]], list[dict]]
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
    files = _files(request)
    lines = file_lines(files, request.data) if files else []
    return "\n".join([*lines, *(_paper_plan() if request.scale == "paper" else _own_plan(request))])


def _own_plan(request: Request) -> list[str]:
    setting = _setting(request)
    sizes, network = setting.sizes, preset_named(setting.sizes.preset).network
    if request.scale != "medium":  # photographs may not be there yet; their size is the preset's
        network = replace(network, resolution=setting.images()[0].shape[-1])
    amounts = len(sizes.amounts) + sizes.refinements
    pairs = len(sizes.seeds) * (1 + amounts)
    images = pairs * (sizes.budget + (sizes.improvement.budget or 0))
    searched = len(sizes.weights) * sizes.improvement.snapshots
    samples = pairs * ((sizes.improvement.synthetic_count or 0) + (3 + 2 * searched) * sizes.count)
    operations = flops_of(network) * (3 * images + samples * preset_named(sizes.preset).sampler.nfe)
    lines = [
        f"amounts:  {', '.join(map(str, sizes.amounts))} polluting images on {sizes.real_count} real ones, and up "
        f"to {sizes.refinements} more in search of the threshold",
        f"models:   {pairs} bases of {sizes.budget:,} images and as many improvements ({len(sizes.seeds)} seeds)",
        f"compute:  about {operations / 1e15:,.3g} PFLOP",
    ]
    if request.scale == "medium":
        lines += [f"GPU hours:  {gpu_hours({'fp16': operations})}", f"core hours: {core_hours(operations)}"]
    return lines


def _paper_plan() -> list[str]:
    lines = []
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
    judged = "judged by FID on 50,000 samples against the training set; best of 4 weights and 4 fine-tuning budgets"
    return [*lines, judged]


RECIPE = Recipe(
    name="sims-figure-6",
    description="SIMS Figure 6: two generations of images against the amount of pollution; the prophylactic threshold",
    scales=("smoke", "small", "medium", "paper"),
    options=("data", "seeds", "processes", "device"),
    plan=_plan,
    run=_run,
)
