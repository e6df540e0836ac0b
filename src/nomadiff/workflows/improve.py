"""``improve`` from files to report: what ``nomadiff improve`` does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from nomadiff.data.image_source import ImageSource
from nomadiff.errors import UsageError
from nomadiff.guidance.shared_encoder import end_share
from nomadiff.improve.auxiliary import auxiliary_config, budgets, default_share
from nomadiff.improve.improve import Improved, improve
from nomadiff.improve.own_samples import own_count
from nomadiff.improve.settings import Improvement
from nomadiff.metrics.distance_names import distance_in
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.cost import sampling_cost
from nomadiff.models.dry_run import NFE_MEANS, gpu_hours, three_digits
from nomadiff.models.model import Model
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.reports.page import Figure, Finding, GridPanel, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.base_model import base_model
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["COST_METRICS", "improve_files", "improvement_report", "plan_improvement"]

_SHOWN = 64

COST_METRICS = [
    MetricInfo("nfe", "NFE", "lower", None, "Network evaluations for one image."),
    MetricInfo("gflop", "GFLOP", "lower", None, "Operations for one image, in 10^9."),
    MetricInfo("mparams", "Mparams", "lower", None, "Parameters in memory, in 10^6."),
    MetricInfo("seconds_per_image", "seconds", "lower", None, "Wall clock for one image, on the machine as it was."),
]
"""Metrics of the cost of a sample, for reports."""


def improve_files(
    model: Model | str | Path,
    out: Path,
    improvement: Improvement,
    held_out: HeldOut = HeldOut(),  # noqa: B008 - frozen
    *,
    train: str | ImageSource | None = None,
    vae: str | None = None,
    device: str | None = None,
    command: str = "",
) -> Improved:
    """Improve a stored model and write ``report.html`` beside the result.

    Args:
        model: the base, anything :func:`~nomadiff.workflows.base_model.base_model` takes.
        out: folder of the improvement.
        improvement: settings.
        held_out: real images to choose by.
        train: the real images the base was trained on, for replication.
        vae: autoencoder of a model of latents, if it is not where its recipe says.
        device: where to compute.
        command: the command line, for the report.

    Raises:
        UsageError, DataError: found before anything is drawn or trained.
        NomadiffError, Interrupted: as :func:`~nomadiff.improve.improve.improve`.
    """
    processes = join_processes(device)
    base = base_model(model, "improve", out, processes, vae=vae)
    reference = held_out.open(base, train=train)
    done = improve(base, out, improvement, reference=reference, device=device, command=command)
    if processes.is_main and done.gain is not None:
        assert reference is not None
        improvement_report(done, base, reference, command=command).write(out / "report.html")
    processes.barrier()
    return done


def improvement_report(done: Improved, base: Model, reference: ReferenceSet, *, command: str = "") -> Report:
    """The report of an improvement whose candidates were scored: answer, bowl, samples, costs.

    Args:
        done: the improvement.
        base: the model it began with.
        reference: what it was scored against.
        command: the command line.
    """
    metric = done.table.meta["best"]["metric"]
    name = done.candidate.known.method
    rows = [row for row in done.table.rows if row["space"] == ("function" if name == "sims" else "parameters")]
    search = [row for row in rows if row["noise"] == "search"]
    zero = next(row for row in search if row["weight"] == 0)
    bowls = [row for row in search if row["weight"] != 0]
    bowls += [{**zero, "budget": budget} for budget in dict.fromkeys(row["budget"] for row in bowls)]
    svg = metric_lines(bowls, "weight", metric, by="budget", label=metric, x_label="guidance weight (0 is the base)")
    best = done.table.meta["best"]
    compared = ((0, 0.0), (best["budget"], best["weight"]))
    fresh = [
        {**row, "method": name if row["weight"] else "base", "source": "", "images_seen": row["budget"]}
        for row in rows
        if row["noise"] == "fresh" and (row["budget"], row["weight"]) in compared
    ]
    if done.distilled is not None:
        student = [row for row in done.table.rows if row["space"] == "distilled"]
        fresh += [
            {**row, "method": "distilled", "source": "", "images_seen": row["budget"]}
            for row in student
            if (row["budget"], row["weight"]) == compared[1]
        ]
    if done.untrained:
        fresh = [{**row, "untrained": done.untrained} for row in fresh]  # none of noise is the best
    assert done.gain is not None
    sets = sum(row["method"] == "base" for row in fresh)
    count = done.table.meta["evaluation"]["count"]
    distance = distance_in(done.table.fields)
    grids = [
        GridPanel("base", "", base.sample(_SHOWN), 8, method="base"),
        GridPanel(name, f"weight {done.table.meta['best']['weight']:g}", done.candidate.sample(_SHOWN), method=name),
    ]
    if done.distilled is not None:
        grids.append(GridPanel("distilled", "one network", done.distilled.sample(_SHOWN), method="distilled"))
    if reference.images is not None:
        grids.insert(0, GridPanel("real", "held out", reference.images[:_SHOWN], 8, method="real"))
    return Report(
        title="Did the model improve itself?",
        subtitle=f"{name} on {base.name}; {sets} sets of {count:,} samples of each model, fresh noise",
        table=Table(fresh, done.table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        grids=grids,
        findings=[Finding(done.sentence, "good" if done.gain.is_sure else "neutral")],
        figures=[Figure(f"{metric} against weight", svg, "One line a budget (images of fine-tuning), search noise.")],
        arms={
            "base": f"The model as it was; {_cost_text(base)}.",
            name: f"{_WHAT[name]}; {_cost_text(done.candidate)}.",
            **({"distilled": f"{_STUDENT}; {_cost_text(done.distilled)}."} if done.distilled else {}),
        },
        command=command,
        versions=versions(),
        notes=(
            "Weight and budget were chosen on other noise and by the reference's other half than the table shows.",
            _KNOWN.format("these copies" if done.table.meta.get("repeats") else "this copy"),
            *_cheaper(done.candidate),
            *([reference.overlap] if reference.overlap else []),
        ),
    )


_KNOWN = "The interval holds for this base and {}: another training of the base would move the distances more."

_WHAT = {
    "sims": "SIMS: extrapolated away from a copy fine-tuned on own samples",
    "neon": "Neon: the parameters extrapolated away from a copy fine-tuned on own samples",
}


_STUDENT = "One network that was taught what the improved model computes"


def _cheaper(candidate: Model) -> list[str]:
    """What the same copy costs where it is called at some noise levels only."""
    guidance = candidate.guidance
    if guidance is None or guidance.kind != "extrapolation" or guidance.interval is not None:
        return []
    limited = Model.guided(replace(guidance, interval=CHEAP_INTERVAL), *candidate.parts)  # type: ignore[arg-type]
    words = f"{CHEAP_INTERVAL[0]:g}:{CHEAP_INTERVAL[1]:g}"
    return [
        f"Drawing takes NFE {candidate.nfe():g}; the same copy with --interval {words} takes {limited.nfe():g}, and a "
        'copy whose decoder\'s end is trained (--train-part decoder) less: see "What it costs" in docs/improve.md.'
    ]


def _cost_text(model: Model) -> str:
    cost = sampling_cost(model)
    return f"NFE {cost.nfe:g}, {cost.gflop:,.3g} GFLOP an image"


def plan_improvement(model: str | Path, improvement: Improvement, *, scored: bool) -> str:
    """The plan and cost of an improvement, one fact a line; nothing is started.

    Args:
        model: the base.
        improvement: settings.
        scored: whether there is a reference.

    Raises:
        UsageError: the number of own samples is neither given nor recorded.
    """
    base = Model.load(model, device="cpu")
    config = auxiliary_config(base.known, improvement)
    forward = flops_of(config.network, config.sources + config.classes)
    options, nfe = config.training, base.known.sampler.nfe
    own = own_count(base, improvement.synthetic_count)
    tried = len(budgets(config, improvement.snapshots)) * (improvement.evaluations if improvement.weight is None else 1)
    guided = 2 if improvement.space == "function" else 1
    sets = tried * guided + 1 + improvement.confirmations * (1 + guided) if scored else 0
    training = 3 * forward * options.budget * improvement.repeats
    drawing = own * nfe * forward * improvement.repeats
    distilling = (3 + guided) * forward * options.budget if improvement.distil else 0
    sets += improvement.confirmations if scored and improvement.distil else 0
    scoring = sets * improvement.count * nfe * forward * improvement.repeats
    share = "" if improvement.budget else f" ({default_share(base.config):.0%} of the base's, SIMS' for its kind)"
    operations = {
        "own samples": f"{own:,}, {three_digits(drawing / 1e15)} PFLOP",
        "fine-tuning": f"{options.budget:,} images{share} at learning rate {options.learning_rate:g}, "
        f"{three_digits(training / 1e15)} PFLOP; {improvement.train_part} of the network",
        **(
            {"distilling": f"{options.budget:,} images, {three_digits(distilling / 1e15)} PFLOP"}
            if improvement.distil
            else {}
        ),
        "scoring": f"{three_digits(scoring / 1e15)} PFLOP: {tried} candidates, then "
        f"{improvement.confirmations} sets of fresh noise, {improvement.count:,} samples each"
        if scored
        else "none (no --reference)",
        "GPU hours": gpu_hours({options.precision: training + distilling + drawing + scoring}),
        **({"repeats": f"{improvement.repeats}, all of them counted above"} if improvement.repeats > 1 else {}),
        "result": f"{_result_text(base, improvement)} ({NFE_MEANS})",
    }
    return "\n".join(f"{name + ':':<13}{text}" for name, text in operations.items())


CHEAP_INTERVAL = (0.05, 5.0)
"""Noise levels that are proposed to call a copy at; docs/improve.md has what it keeps of the gain."""


def _result_text(base: Model, improvement: Improvement) -> str:
    """Evaluations for one image of the result, and of one that calls the copy less."""
    told = f"NFE {_nfe(base, improvement):g}"
    if improvement.space != "function":
        return told
    cheap = replace(improvement, interval=improvement.interval or CHEAP_INTERVAL, train_part="decoder")
    try:
        less = _nfe(base, cheap)
    except UsageError:  # its decoder cannot be trained apart
        cheap = replace(cheap, train_part=improvement.train_part)
        less = _nfe(base, cheap)
    options = [] if cheap.train_part == improvement.train_part else ["--train-part decoder"]
    options += [] if improvement.interval else [f"--interval {CHEAP_INTERVAL[0]:g}:{CHEAP_INTERVAL[1]:g}"]
    return f"{told}; {less:g} with {' '.join(options)}, see docs/improve.md" if options else told


def _nfe(base: Model, improvement: Improvement) -> float:
    levels = base.known.sampler.called_levels()
    if improvement.space != "function":
        return len(levels)
    low, high = improvement.interval or (0.0, math.inf)
    part = 1.0
    if improvement.train_part == "decoder":
        part = end_share(base.config.network, base.config.sources + base.config.classes)
    return round(len(levels) + part * sum(low <= sigma <= high for sigma in levels), 1)
