"""The self-improvement part of the demo: a model that was trained for a short time improves itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.models.model import Model
from nomadiff.reports.page import Figure, Finding, GridPanel, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.sims_settings import SHORT, improving
from nomadiff.reproduce.trials import Trial, run_trials, trials_of
from nomadiff.tables import Table

__all__ = ["self_improvement"]

_SUBJECT = improving(
    replace(SHORT, count=400), weight=None, synthetic_count=1000, count=400, evaluations=3, confirmations=6
)
_SHOWN = 64


def self_improvement(out: Path, *, seeds: Sequence[int] = (0, 1), workers: int | None = None) -> Report:
    """Train bases for 300 steps on the digits pool and let ``improve`` do what it does; about 50 s on two cores.

    Interrupted and called again, it goes on.

    Args:
        out: a folder of its own.
        seeds: one base for each.
        workers: seeds side by side; None takes one a core.

    Returns:
        A row a model and set of samples, the tool's own conclusion for each seed, the distance against the weight, and
        the first seed's base and improved model, drawn from the same noise.
    """
    trials = trials_of((_SUBJECT,), seeds, out, device="cpu")
    table = run_trials("demo-improve", _improve, trials, out, processes=workers)
    rows = [row for row in table.rows if "sentence" not in row]
    findings = [
        Finding(f"Self-improvement, seed {row['seed']}: {row['sentence']}.", "good" if row["improves"] else "neutral")
        for row in table.rows
        if "sentence" in row
    ]
    bowl = [{**row, "name": f"seed {row['seed']}"} for row in rows if row["noise"] == "search"]
    svg = metric_lines(bowl, "weight", "fd_digits", by="name", label="fd_digits", x_label="guidance weight")
    caption = "Weight 0 is the base; all points of a seed share their noise."
    count = trials[0].subject.improvement.count
    meta = {**table.meta, "evaluation": {"count": count, **trials[0].reference.meta}}
    base, better = trials[0].base, Model.load(trials[0].folder / "improved", device="cpu")
    return Report(
        "A model improves itself",
        table=Table([{**row, "method": "sims" if row["weight"] else "base", "source": ""} for row in rows], meta),
        findings=findings,
        figures=[Figure("A model improves itself: distance against weight", svg, caption)],
        grids=[
            GridPanel("base", "300 steps on 1,000 digits", base.sample(_SHOWN), 8, method="base"),
            GridPanel("sims", f"weight {_weight(better):g}", better.sample(_SHOWN), 8, method="sims"),
        ],
    )


def _weight(model: Model) -> float:
    return 0.0 if model.guidance is None else model.guidance.weight


def _improve(trial: Trial) -> list[dict[str, Any]]:
    done = trial.improved(reference=trial.reference)
    seen = {"seed": trial.seed, "images_seen": trial.subject.base_budget}
    rows = [{**row, "set": row["seed"], **seen} for row in done.table.rows]
    assert done.gain is not None
    return [*rows, {"seed": trial.seed, "sentence": done.sentence, "improves": done.gain.is_sure}]
