"""``compare``: does synthetic data help here? Methods at equal budget, over sources and seeds, in one report.

This is the design of the CASD paper's section 4 as one call: the same architecture and training for every method
(section 4.1), one synthetic source at a time (4.2 to 4.4), a held-out reference that no model sees.
"""

from __future__ import annotations

import os

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.processes import join_processes
from nomadiff.reports.page import Report
from nomadiff.tables import Table
from nomadiff.workflows.arms import run_arms
from nomadiff.workflows.comparison import Comparison, check_comparison
from nomadiff.workflows.judging import judge

__all__ = ["Comparison", "compare", "compared", "default_workers"]


def compare(comparison: Comparison) -> Table:
    """Train, sample and score every arm, and write ``metrics.json``, ``verdict.json`` and ``report.html``.

    Interrupted, the same call continues: finished arms are kept, half-done ones resumed.

    Returns:
        One row an arm and seed: ``method``, ``source``, ``seed``, ``images_seen`` and one field a metric.

    Raises:
        UsageError, DataError: something is wrong with the images or options; found before training starts.
        NomadiffError, Interrupted: as training does.
    """
    table, report = compared(comparison)
    report.write(comparison.out / "report.html")
    return table


def compared(comparison: Comparison) -> tuple[Table, Report]:
    """As :func:`compare`, but the report is returned unwritten, for callers that add to it."""
    arms = comparison.arms()
    if not comparison.mix_spec.synthetic and comparison.needs_synthetic:
        raise UsageError("compare needs at least one --synthetic source; to train on real images alone use train")
    reference, _ = check_comparison(comparison)  # validated before the first expensive step
    load_detector(comparison.detector, weights=comparison.detector_weights)(reference.images[:1])
    if comparison.classifier is not None:
        load_classifier(comparison.classifier, weights=comparison.classifier_weights).classes(reference.images[:1])
    run_arms(arms, workers=comparison.workers or default_workers(comparison.device, len(arms)))
    return judge(comparison, arms, reference)


def default_workers(device: str | None, arms: int) -> int:
    """Arms to train side by side: one a CPU core; 1 on a GPU."""
    if join_processes(device).device.type != "cpu":
        return 1
    return max(1, min(arms, os.cpu_count() or 1))
