"""``compare``: does synthetic data help here? Methods at equal budget, over sources and seeds, in one report.

This is the design of the CASD paper's section 4 as one call: the same architecture and training for every method
(section 4.1), one synthetic source at a time (4.2 to 4.4), a held-out reference that no model sees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.errors import UsageError
from nomadiff.job_folder import Job, JobFolder
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.reports.page import Report
from nomadiff.tables import Table
from nomadiff.workflows.arms import job_of
from nomadiff.workflows.comparison import Comparison, check_comparison
from nomadiff.workflows.judging import judge
from nomadiff.workflows.workers import check_group, work_on

__all__ = ["Comparison", "begin_comparison", "check_parts", "compare", "compared", "comparison_jobs", "jobs_from"]


def compare(comparison: Comparison) -> Table:
    """Train, sample and score every arm, and write ``metrics.json``, ``verdict.json`` and ``report.html``.

    Interrupted, the same call continues: finished arms are kept, half-done ones resumed. Other processes and machines
    may help (``nomadiff work``).

    Returns:
        One row an arm and seed: ``method``, ``source``, ``seed``, ``images_seen`` and one field a metric.

    Raises:
        UsageError, DataError: something is wrong with the images or options; found before training starts.
        NomadiffError, Interrupted: as training does.
    """
    comparison = comparison.with_preset()
    table, report = compared(comparison)
    report.write(comparison.out / "report.html")
    JobFolder(comparison.out).mark_done(comparison_jobs(comparison)[-1])
    return table


def compared(comparison: Comparison) -> tuple[Table, Report]:
    """As :func:`compare`, but the report is returned unwritten, for callers that add to it."""
    reference = begin_comparison(comparison)
    *arms, _ = comparison_jobs(comparison)
    work_on(
        comparison.out,
        arms,
        device=comparison.device,
        processes=comparison.workers,
        gpus_per_job=comparison.gpus_per_job,
    )
    return judge(comparison, comparison.arms(), reference)


def begin_comparison(comparison: Comparison) -> ImageSource:
    """Check everything and write the plan, from which any process can work; gives the held-out reference.

    Raises:
        UsageError, DataError: something is wrong with the images or options.
    """
    reference = check_parts(comparison)
    folder = JobFolder(comparison.out)
    folder.write_plan(comparison_jobs(comparison), comparison.to_dict())
    folder.forget_failures()
    return reference


def check_parts(comparison: Comparison) -> ImageSource:
    """Check images, options and detectors before the first expensive step; gives the held-out reference.

    Raises:
        UsageError, DataError: something is wrong with the images or options.
    """
    if not comparison.mix_spec.synthetic and comparison.needs_synthetic:
        raise UsageError("compare needs at least one --synthetic source; to train on real images alone use train")
    check_group(comparison.gpus_per_job, comparison.arms()[-1].algorithm().training.batch)
    reference, mix = check_comparison(comparison)
    load_detector(comparison.detector, weights=comparison.detector_weights)(reference.images[:1])
    if comparison.classifier is not None:
        load_classifier(comparison.classifier, weights=comparison.classifier_weights).classes(reference.images[:1])
    comparison.arms()[-1].algorithm().recipe(mix).training.warn_of_budget()
    return reference


def comparison_jobs(
    comparison: Comparison, *, study: Path | None = None, prefix: str = "", after: tuple[str, ...] = ()
) -> list[Job]:
    """A job for each arm, and the last one for the report.

    Args:
        comparison: what is compared.
        study: folder of the larger study that it is a part of.
        prefix: what the jobs' names begin with in that study.
        after: jobs of that study that make what the arms read.
    """
    out = comparison.out
    arms = [job_of(arm, study or out, prefix + arm.out.name, after) for arm in comparison.arms()]
    judged_by = (comparison.reference, comparison.detector, comparison.classifier, comparison.similarity)
    about = hashlib.sha256(json.dumps([[job.about for job in arms], judged_by], default=repr).encode()).hexdigest()
    products = (out / "metrics.json", out / "report.html")
    names = tuple(job.name for job in arms)
    return [*arms, Job(f"{prefix}report", partial(_report, comparison), names, products, about)]


def jobs_from(settings: Mapping[str, Any], out: Path) -> list[Job]:
    """The jobs of a comparison in a folder, by the settings that :meth:`Comparison.to_dict` gave.

    Raises:
        DataError: they are no such settings.
    """
    return comparison_jobs(Comparison.from_dict(settings, out))


def _report(comparison: Comparison, device: str | None) -> None:
    reference, _ = check_comparison(comparison)
    _, report = judge(comparison, comparison.arms(), reference)
    report.write(comparison.out / "report.html")
