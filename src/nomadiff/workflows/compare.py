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

import torch

from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.metadata import subjects_of
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.job_folder import Job, JobFolder
from nomadiff.metrics.detectors.loading import load_classifier, load_detector
from nomadiff.metrics.manifold import check_count
from nomadiff.metrics.reference import check_subjects
from nomadiff.metrics.replication import calibrate
from nomadiff.models.dry_run import plan_training
from nomadiff.monitoring.settings import Monitoring
from nomadiff.reports.page import Report
from nomadiff.tables import Table
from nomadiff.workflows.arms import job_of
from nomadiff.workflows.comparison import Comparison
from nomadiff.workflows.evaluation_settings import EvaluationSettings
from nomadiff.workflows.held_out import refuse_shared
from nomadiff.workflows.judging import judge
from nomadiff.workflows.workers import check_group, work_on

__all__ = [
    "Comparison",
    "begin_comparison",
    "check_comparison",
    "check_parts",
    "compare",
    "compared",
    "comparison_jobs",
    "jobs_from",
    "plan_comparison",
]


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
    if comparison.classifier_weights is not None and comparison.classifier is None:
        raise UsageError("--classifier-weights without --classifier: they are a classifier's, so give both")
    check_group(comparison.gpus_per_job, comparison.arms()[-1].algorithm().training.batch)
    reference, mix = check_comparison(comparison)
    load_detector(comparison.detector, weights=comparison.detector_weights)(reference.images[:1])
    if comparison.classifier is not None:
        load_classifier(comparison.classifier, weights=comparison.classifier_weights).classes(reference.images[:1])
    comparison.arms()[-1].algorithm().recipe(mix).training.warn_of_budget()
    return reference


def check_comparison(comparison: Comparison) -> tuple[ImageSource, SourceMix]:
    """Open everything a comparison reads and check that it fits together.

    Returns:
        The held-out reference, and the mix of the last arm.

    Raises:
        UsageError, DataError: something does not.
    """
    mix_spec = comparison.mix_spec
    check_count(comparison.count, EvaluationSettings.k, "--count")
    reference = mix_spec.read(comparison.reference, "reference", classes=mix_spec.real_classes)
    arms = comparison.arms()
    checked = set()
    last: SourceMix | None = None
    watched: Monitoring | None = None
    for spec in dict.fromkeys(arm.mix for arm in arms):
        mix = spec.open()
        if mix.latents is not None:
            raise UsageError("compare trains on images and scores images; of latents train one model at a time")
        real = mix.sources[0]
        if reference.pixels.shape[1:] != real.images.shape[1:]:
            raise UsageError(
                f"reference {spec_text(comparison.reference)} has images of {tuple(reference.images.shape[1:])}, "
                f"the real source of {tuple(real.images.shape[1:])} (channels, height, width); pass --resolution"
            )
        if real.content_hash not in checked:
            trained, held_out = (subjects_of(source, comparison.group_by) for source in (real, reference))
            related = None
            if trained is not None and held_out is not None:
                check_subjects(held_out)
                related = torch.tensor([name in set(trained) for name in held_out])
            allowed = comparison.allow_train_as_reference
            calibrate(real.images, reference.images, allow_train_as_reference=allowed, related=related)
            checked.add(real.content_hash)
        for source in mix.sources[1:]:
            if source.content_hash not in checked:
                # by such a reference, whoever takes over the style of the synthetic images wins
                refuse_shared(
                    reference,
                    source,
                    f"of the synthetic source '{source.name}'",
                    most="give held-out real images",
                    some="they cannot be real and synthetic",
                )
                checked.add(source.content_hash)
        for arm in arms:
            if arm.mix == spec:
                algorithm = arm.algorithm()
                watched = watched or arm.monitoring(mix)  # read once, and what is wrong in it told once
                recipe, learned, _ = algorithm.monitored(mix, watched)
                algorithm.check_folder(arm.out, recipe, learned)
                last = mix if arm is arms[-1] else last
    assert last is not None
    return reference, last


def plan_comparison(comparison: Comparison) -> str:
    """The plan of a comparison, from its images and recipes, without starting it: one fact a line.

    Raises:
        UsageError, DataError: as the comparison itself would.
    """
    comparison = comparison.with_preset()
    _, mix = check_comparison(comparison)
    arms = comparison.arms()
    plan = plan_training(arms[-1].algorithm().recipe(mix), sources=mix.sources)
    return f"{plan}\nmodels:      {len(arms)} like this one ({arms[-1].out.name})"


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
    judged_by = (
        *(comparison.reference, comparison.detector, comparison.classifier, comparison.similarity),
        *(comparison.detector_weights, comparison.classifier_weights, comparison.group_by),
        comparison.allow_train_as_reference,
    )
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
