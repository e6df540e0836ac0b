"""``shift`` from files to report: what ``nomadiff shift`` does, and the figures its recipes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.improve.auxiliary import auxiliary_config
from nomadiff.improve.own_samples import own_count
from nomadiff.metrics.detectors.loading import load_classifier
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.dry_run import NFE_MEANS, gpu_hours, three_digits
from nomadiff.models.model import Model
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.reports.page import Figure, Finding, GridPanel, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reports.summary import MetricInfo
from nomadiff.shift.complement import REST
from nomadiff.shift.settings import Shift
from nomadiff.shift.shift import ALL, Shifted, shift
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.base_model import base_model
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["SHARE_METRICS", "plan_shift", "shift_figures", "shift_files", "shift_report", "shown_rows"]

_SHOWN = 64
_DIGITS_SHAPE = (1, 8, 8)

SHARE_METRICS = [
    MetricInfo("share_percent", "share, %", "neither", None, "Share of the samples that the classifier puts there."),
    MetricInfo("target_percent", "target, %", "neither", None, "The share asked for."),
]
"""Shares, for reports, in percent."""


def shift_files(
    model: Model | str | Path,
    out: Path,
    settings: Shift,
    held_out: HeldOut = HeldOut(),  # noqa: B008 - frozen
    *,
    classifier: str | Detector | None = None,
    device: str | None = None,
    command: str = "",
) -> Shifted:
    """Shift a stored model and write ``report.html`` beside the result.

    Args:
        model: the base, anything :func:`~nomadiff.workflows.base_model.base_model` takes.
        out: folder of the shift.
        settings: target and everything else.
        held_out: real images to measure distances to.
        classifier: assigns images to classes; None takes the shipped one for models of 8x8 digits.
        device: where to compute.
        command: the command line, for the report.

    Raises:
        UsageError, DataError: found before anything is drawn or trained.
        NomadiffError, Interrupted: as :func:`~nomadiff.shift.shift.shift`.
    """
    processes = join_processes(device)
    base = base_model(model, "shift", out, processes)
    if classifier is None:
        if base.image_shape != _DIGITS_SHAPE:
            raise UsageError("a shift needs --classifier: cifar10-resnet56, or a TorchScript file of logits")
        classifier = "digits"
    judge = load_classifier(classifier, device=processes.device)
    reference = held_out.open(base, classifier=judge)
    done = shift(base, out, settings, classifier=judge, reference=reference, device=device, command=command)
    if processes.is_main:
        shift_report(done, base, command=command).write(out / "report.html")
    processes.barrier()
    return done


def shown_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a shift as a report shows them: shares in percent, a block for each group."""
    shown = []
    for row in rows:
        percent = {name: 100 * row[name] for name in ("share", "target") if row.get(name) is not None}
        shown.append({**row, "source": row["group"], **{f"{name}_percent": value for name, value in percent.items()}})
    return shown


def shift_figures(rows: Sequence[dict[str, Any]], title: str = "") -> list[Figure]:
    """The two panels of SIMS Figure 7: share of each group, and distance, against the guidance weight.

    Args:
        rows: of a sweep, or of the sweeps of several seeds.
        title: put before what a figure shows.
    """
    distance = distance_in(Table(list(rows)).fields)
    shares = shown_rows([row for row in rows if row["group"] not in (ALL, REST)])
    targets = [
        {"weight": row["weight"], "group": f"target {row['target']:.0%}", "share_percent": row["target_percent"]}
        for row in shares
    ]
    left = metric_lines(
        [*shares, *targets],
        "weight",
        "share_percent",
        by="group",
        label="share in percent",
        x_label="guidance weight (0 is the base, -1 the copy)",
    )
    figures = [Figure(f"{title}Share in percent against weight", left, "Weight 0 is the base, -1 the copy alone.")]
    if distance:
        last = sorted(rows, key=lambda row: row["group"] == ALL)  # groups have one colour in both panels
        right = metric_lines(last, "weight", distance, by="group", label=distance, x_label="guidance weight")
        caption = "Groups against real images of the same group; of all, the shift itself counts as distance."
        figures.append(Figure(f"{title}{distance} against weight", right, caption))
    return figures


def shift_report(done: Shifted, base: Model, *, command: str = "") -> Report:
    """The report of a shift: answer, the two figures, samples, all scores.

    Args:
        done: the shift.
        base: the model it began with.
        command: the command line.
    """
    sweep = [row for row in done.table.rows if row["noise"] == "sweep"]
    fresh = [row for row in done.table.rows if row["noise"] == "fresh" and row["weight"] in (0.0, done.weight)]
    distance = distance_in(done.table.fields)
    targets = ", ".join(f"“{group.name}” {group.target:.0%}" for group in done.groups)
    table = Table([{**row, "method": _method(row)} for row in shown_rows(fresh)], done.table.meta)
    return Report(
        title="Did the composition follow the target?",
        subtitle=f"Targets: {targets}. Base: {base.name}",
        table=table,
        metrics=[*SHARE_METRICS, *metric_infos(distance, {})],
        by=("method", "weight"),
        block="group",
        grids=[
            GridPanel("base", "", base.sample(_SHOWN), 8, method="base"),
            GridPanel("shifted", f"weight {done.weight:g}", done.model.sample(_SHOWN), 8, method="shifted"),
        ],
        findings=[Finding(done.sentence, "good" if done.is_reached else "bad")],
        figures=shift_figures(sweep),
        arms={
            "base": "The model as it was.",
            "shifted": "Extrapolated away from a copy fine-tuned on own samples in complementary composition.",
        },
        command=command,
        versions=versions(),
        notes=(
            "The weight was chosen on other noise than the table shows.",
            "The shares are what the classifier says; where it errs, so do they.",
            "Metrics of a group are means over subsets of one size, so that its share does not change them.",
        ),
    )


def _method(row: dict[str, Any]) -> str:
    return "shifted" if row["weight"] else "base"


def plan_shift(model: str | Path, settings: Shift, *, scored: bool) -> str:
    """The plan and cost of a shift, one fact a line; nothing is started.

    Args:
        model: the base.
        settings: target and everything else.
        scored: whether there is a reference.

    Raises:
        UsageError: the number of own samples is neither given nor recorded.
    """
    base = Model.load(model, device="cpu")
    config = auxiliary_config(base.known, settings.fine_tuning)
    forward = flops_of(config.network, config.sources + config.classes)
    options, nfe = config.training, base.known.sampler.nfe
    own = own_count(base, settings.synthetic_count)
    tried = {0.0, *settings.weights}
    guided = len(tried - {0.0, -1.0}) + 1  # a set of the extrapolation costs two
    sets = len(tried) + 2 + guided
    training = 3 * forward * options.budget
    drawing = own * nfe * forward
    scoring = sets * settings.count * nfe * forward
    lines = {
        "targets": ", ".join(f"{name} {share:.1%}" for name, share in settings.target.items()),
        "own samples": f"{own:,} in complementary composition, {three_digits(drawing / 1e15)} PFLOP or more: as many "
        "are drawn as its largest group needs",
        "fine-tuning": f"{options.budget:,} images at learning rate {options.learning_rate:g}, "
        f"{three_digits(training / 1e15)} PFLOP",
        "scoring": f"{three_digits(scoring / 1e15)} PFLOP: {len(tried) - 1} weights and the base, then base and "
        f"recommended weight on fresh noise, {settings.count:,} samples each"
        + ("" if scored else "; shares only (no --reference)"),
        "GPU hours": gpu_hours({options.precision: training + drawing + scoring}),
        "result": f"NFE {base.nfe() * 2:g} ({NFE_MEANS})",
    }
    return "\n".join(f"{name + ':':<13}{text}" for name, text in lines.items())
