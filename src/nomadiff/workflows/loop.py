"""Self-consuming loops of images, from files to report: what ``nomadiff loop`` does."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import NomadiffWarning
from nomadiff.job_folder import Job, JobFolder
from nomadiff.loops.report import report_loops
from nomadiff.metrics.trained import are_like, why_untrained
from nomadiff.models.dry_run import plan_training
from nomadiff.reports.page import GridPanel
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.image_loop import ImageLoop
from nomadiff.workflows.metric_infos import metric_infos
from nomadiff.workflows.open_loop import OpenLoop
from nomadiff.workflows.workers import check_group, work_on

__all__ = ["ImageLoop", "begin_image_loop", "jobs_from", "loop_jobs", "plan_image_loop", "run_image_loop"]

_SHOWN = 64
_UNRELATED = (
    "algorithms",
    "seeds",
    "generations",
    "out",
    "workers",
    "gpus_per_job",
    "device",
    "command",
)  # to what a loop's files are
_SENTENCES = {
    "standard": "Standard training: everything is taken for real.",
    "sims": "SIMS: steered away from a copy fine-tuned on the model's own samples.",
    "neon": "Neon: SIMS' extrapolation in parameter space.",
    "source-guidance": "A copy that knows its own samples as source 1, steered from them to the real.",
    "casd": "CASD with the model's own samples as source 1, sampled as real.",
    "casd-provenance": "CASD told which images earlier generations made, sampled as real.",
    "real-only": "Trained on the real images alone: knows what is synthetic and leaves it out.",
}


def run_image_loop(loop: ImageLoop) -> Table:
    """Run the loops and write ``metrics``, ``madness`` (JSON and CSV each) and ``report.html``.

    Interrupted, the same call goes on with the generation and stage it had reached; with more generations it extends
    finished loops.

    Returns:
        One row a generation, algorithm and seed: ``method`` (the algorithm), ``kind``, ``seed``, ``generation``,
        ``real`` and ``synthetic`` (images in the training set), the metrics, and ``ratio``, the distance divided by the
        algorithm's mean first distance. ``meta["madness"]`` holds the verdict on each curve, in words.

    Raises:
        UsageError, DataError: something is wrong with the images or options; found before training starts.
        NomadiffError, Interrupted: as training does.
    """
    setting = begin_image_loop(loop)
    *loops, report = loop_jobs(setting)
    work_on(loop.out, loops, device=loop.device, processes=loop.workers, gpus_per_job=loop.gpus_per_job)
    table = _report(setting)
    JobFolder(loop.out).mark_done(report)
    return table


def begin_image_loop(loop: ImageLoop) -> OpenLoop:
    """Check everything and write the plan, from which any process can work.

    Raises:
        UsageError, DataError: something is wrong with the images or options, or the folder holds other loops.
    """
    setting = OpenLoop(loop)
    check_group(loop.gpus_per_job, setting.recipe.training.batch)
    for name in setting.algorithms:
        for seed in loop.seeds:
            setting.loop_of(name, seed).check_folder(setting.folder_of(name, seed), seed)
    folder = JobFolder(loop.out)
    folder.write_plan(loop_jobs(setting), setting.loop.to_dict())
    folder.forget_failures()
    return setting


def loop_jobs(setting: OpenLoop) -> list[Job]:
    """A job for each loop, and the last one for the report.

    The loops of one seed begin with the same network: the first algorithm's first generation is a job that the other
    algorithms wait for, and copy from.
    """
    loop = setting.loop
    plain = {name: value for name, value in vars(loop).items() if name not in _UNRELATED}
    about = hashlib.sha256(json.dumps(plain, sort_keys=True, default=repr).encode()).hexdigest()
    first, *others = setting.algorithms
    jobs: list[Job] = []

    budget = setting.recipe.training.steps * setting.recipe.training.batch

    def job(name: str, seed: int, generations: int, title: str, after: tuple[str, ...] = (), **told: Any) -> Job:
        made = setting.folder_of(name, seed) / f"generation-{generations:04d}" / "manifest.json"
        return Job(title, partial(_run, loop, name, seed, generations), after, (made,), about, shared=True, **told)

    for seed in loop.seeds:  # seed by seed: an interrupted study has all algorithms of the seeds it has
        after = (f"{first}-seed{seed}-first",) if others else ()
        jobs += [job(first, seed, 1, title) for title in after]
        for name in setting.algorithms:
            where = str(setting.folder_of(name, seed).relative_to(loop.out))
            images = loop.generations * budget
            title = f"{name}-seed{seed}"
            jobs.append(job(name, seed, loop.generations, title, after, images=images, run_folder=where))
    products = (loop.out / "metrics.json", loop.out / "report.html")
    told = hashlib.sha256(json.dumps([about, sorted(job.name for job in jobs), loop.generations]).encode()).hexdigest()
    return [*jobs, Job("report", partial(_report_of, loop), tuple(job.name for job in jobs), products, told)]


def jobs_from(settings: Mapping[str, Any], out: Path) -> list[Job]:
    """The jobs of the loops in a folder, by the settings that :meth:`ImageLoop.to_dict` gave.

    Raises:
        DataError: they are no such settings.
    """
    return loop_jobs(OpenLoop(ImageLoop.from_dict(settings, out)))


def _run(loop: ImageLoop, name: str, seed: int, generations: int, device: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadiffWarning)  # of images and recipe: the caller has told it once
        OpenLoop(replace(loop, device=device or loop.device)).run(name, seed, generations)


def _report_of(loop: ImageLoop, device: str | None) -> None:
    _report(OpenLoop(replace(loop, device=device or loop.device)))


def _report(setting: OpenLoop) -> Table:
    """Judge finished loops."""
    loop = setting.loop
    curves = {name: [setting.run(name, seed, loop.generations) for seed in loop.seeds] for name in setting.algorithms}
    floor = setting.floor
    meta = {"command": loop.command, "versions": versions(), "kind": setting.kind}
    meta["evaluation"] = {"count": loop.count, **setting.reference_set.meta}
    return report_loops(
        curves,
        loop.out,
        distance=setting.distance,
        kind=setting.kind,
        seeds=loop.seeds,
        floor=floor,
        shown=("recall",),
        meta=meta,
        untrained={name: why for name, runs in curves.items() if (why := _untrained(setting, name, runs, floor))},
        subtitle=f"{setting.kind}: {setting.real_count:,} real images, {setting.synthetic_count:,} of each generation; "
        f"{loop.count:,} samples judged by {len(setting.held_out):,} held-out images",
        metrics=metric_infos(setting.distance, floor),
        grids=_grids(setting),
        arms={name: _SENTENCES[name] for name in setting.algorithms},
        command=loop.command,
        versions=versions(),
        notes=[f"Each generation starts {'from its predecessor' if loop.warm_start else 'from scratch'}."],
        provenance=[
            {"name": source.name, **{name: _flat(value) for name, value in source.provenance.items()}}
            for source in (setting.real, setting.held_out)
        ],
    )


def plan_image_loop(loop: ImageLoop) -> str:
    """The plan of the loops, one fact a line; nothing is started.

    Raises:
        UsageError, DataError: as the loops themselves would.
    """
    setting = OpenLoop(loop)
    generations, each = loop.generations, len(loop.seeds)
    trainings = {"standard": "1 network", "real-only": "1 network", "casd-provenance": "1 network"}
    trainings |= {"casd": "2 networks and its own samples"}
    lines = [plan_training(setting.recipe, sources=[setting.real, setting.held_out])]
    lines.append(
        f"loop:        {setting.kind}, {setting.real_count:,} real images, {setting.synthetic_count:,} of each "
        f"generation, {'from the predecessor' if loop.warm_start else 'from scratch'}"
    )
    for name in setting.algorithms:
        what = trainings.get(name, "1 network, its own samples and a fine-tuning")
        lines.append(f"{name + ':':<12} {generations * each} generations ({each} loops of {generations}), each {what}")
    return "\n".join(lines)


def _grids(setting: OpenLoop) -> list[GridPanel]:
    loop = setting.loop
    seed, last = loop.seeds[0], loop.generations
    grids = [GridPanel("real", "held out", setting.held_out.images[:_SHOWN], 8, method="real")]
    for name in setting.algorithms:
        for generation in dict.fromkeys((1, last)):
            images = _samples(setting, name, seed, generation)
            grids.append(GridPanel(name, f"generation {generation}, seed {seed}", images, 8, method=name))
    return grids


def _untrained(
    setting: OpenLoop, name: str, runs: Sequence[Sequence[Mapping[str, Any]]], floor: Mapping[str, float]
) -> str:
    """Why the first generation of an algorithm is not yet a model, in one of its runs; empty if it may be one."""
    if setting.recipe.training.inside_warmup:
        return "its warm-up is not over"
    for seed, run in zip(setting.loop.seeds, runs):
        if not (why := why_untrained(run[0], floor)):
            continue
        if not are_like(_samples(setting, name, seed, 1), setting.real.pixels, setting.reference_set):
            return why
    return ""


def _samples(setting: OpenLoop, name: str, seed: int, generation: int) -> Tensor:
    """Images of one generation, from the same noise for all of them."""
    model = setting.algorithms[name].load(setting.folder_of(name, seed) / f"generation-{generation:04d}" / "model")
    return torch.from_numpy(model.sample(_SHOWN, 0))


def _flat(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) or value is None else json.dumps(value)
