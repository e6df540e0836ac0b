"""SIMS Figure 4: self-improvement against guidance weight and fine-tuning budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.improve.confirmation import paired_gain
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reproduce.sims_settings import (
    DIGITS_SHORT,
    SMOKE,
    Subject,
    at_scale,
    improved,
    missing_files,
    plan_line,
    run_seeds,
    scorer,
    scoring_seed,
    seeds_of,
)
from nomadiff.tables import Table
from nomadiff.workflows.judging import metric_infos

__all__ = ["DESCRIPTION", "run"]

DESCRIPTION = "SIMS Figure 4: distance against guidance weight, a line a budget, in function and parameter space"

_BUDGETS = replace(DIGITS_SHORT, snapshots=2)
_DIGITS = (
    Subject("short", _BUDGETS, 1000, steps_budget=38_400),
    Subject("converged", _BUDGETS, 1000, steps_budget=153_600),
)
_WEIGHTS = {"smoke": (1.0,), "small": (0.5, 1.0, 1.5, 2.0), "paper": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)}
_SPACES = ("function", "parameters")


def run(
    out: Path,
    *,
    scale: str = "small",
    seeds: Sequence[int] | None = None,
    processes: int | None = None,
    device: str | None = None,
    data: Path | None = None,
    command: str = "",
    dry_run: bool = False,
) -> Table:
    """Improve every base and score weight x budget x space; interrupted and called again, it goes on.

    Writes ``table.json``, ``table.csv``, ``verdicts.json`` (what ``improve`` itself concludes for each base at weight
    1, with its interval) and ``report.html``.

    Args:
        out: folder.
        scale: "smoke", "small" or "paper".
        seeds: one base, auxiliary and set of scores for each; by default 10 to 13, on which nothing was tuned.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        data: folder with the files of the paper's scale.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        One row a candidate: ``base``, ``space``, ``weight`` (0 is the base), ``budget`` (images of fine-tuning; 0 for
        the base), ``seed``, the metrics, ``nfe``, ``gflop`` and ``seconds_per_image``.

    Raises:
        UsageError: no such scale.
        DataError: files are missing.
    """
    subjects = at_scale(scale, _DIGITS, SMOKE)
    seeds = seeds_of(scale, seeds)
    weights = _WEIGHTS[scale]
    if dry_run:
        return Table(meta={"plan": _plan(subjects, seeds, weights, data)})
    table = run_seeds(
        "sims-figure-4", _sweep, subjects, seeds, out, processes=processes, data=data, device=device, weights=weights
    )
    verdicts = Table([row for row in table.rows if "sentence" in row], table.meta)
    table.rows = [row for row in table.rows if "sentence" not in row]
    table.meta["command"] = command
    table.write(out / "table.json")
    verdicts.write(out / "verdicts.json")
    _report(table, verdicts, command).write(out / "report.html")
    return table


def _sweep(
    subject: Subject, folder: Path, seed: int, data: Path | None, device: str | None, weights: Sequence[float]
) -> list[dict[str, Any]]:
    """All candidates of one base, and what the tool concludes on fresh noise at the weight that was fixed."""
    base = subject.base(folder, seed, data, device)
    reference = subject.judge(data, device)
    made = improved(subject, folder / "improved", seed, base=base, device=device)
    candidates = made.candidates
    score = scorer(folder, subject, reference, scoring_seed(seed))
    rows = [score(lambda: candidates.base, space="function", weight=0.0, budget=0, seed=seed)]
    for budget in candidates.budgets:
        for space in _SPACES:
            for weight in weights:

                def make(budget: int = budget, weight: float = weight, space: str = space) -> Model:
                    return candidates.make(budget, weight, space)

                rows.append(score(make, space=space, weight=weight, budget=budget, seed=seed))
    verdict = improved(subject, folder / "improved", seed, base=base, reference=reference, device=device)
    assert verdict.gain is not None
    best = verdict.table.meta["best"]
    conclusion = {
        "seed": seed,
        "sentence": verdict.sentence,
        "improves": verdict.gain.is_sure,
        **{name: best[name] for name in ("weight", "budget", "mean", "low", "high")},
    }
    return [*rows, conclusion]


def _plan(subjects: Sequence[Subject], seeds: Sequence[int], weights: Sequence[float], data: Path | None) -> str:
    lines = missing_files(subjects, data)
    for subject in subjects:
        settings = subject.improvement
        bowl = settings.snapshots * len(weights)
        fresh = settings.confirmations
        what = f"{1 + 2 * bowl} candidates, then the tool's own conclusion"
        sets = {"plain": 2 + bowl + fresh, "guided": bowl + settings.snapshots + fresh}
        lines.append(plan_line(subject, what, seeds=len(seeds), **sets))
    return "\n".join(lines)


def _report(table: Table, verdicts: Table, command: str) -> Report:
    distance = distance_in(table.fields)
    findings, figures = [], []
    for base in dict.fromkeys(row["base"] for row in table.rows):
        rows = [row for row in table.rows if row["base"] == base]
        plain = {row["seed"]: row for row in rows if row["weight"] == 0}
        findings += _findings(base, rows, plain, [row for row in verdicts.rows if row["base"] == base], distance)
        for space in _SPACES:
            guided = [row for row in rows if row["space"] == space and row["weight"]]
            budgets = dict.fromkeys(row["budget"] for row in guided)
            bowl = guided + [{**row, "budget": budget} for budget in budgets for row in plain.values()]
            for metric in (distance, "coverage"):
                if metric in table.fields:
                    svg = metric_lines(bowl, "weight", metric, by="budget", label=metric, x_label="guidance weight")
                    title = f"Base “{base}”, {space} space: {metric}"
                    figures.append(Figure(title, svg, "A line a budget (images of fine-tuning); weight 0 is the base."))
    shown = [{**row, "method": _name(row), "source": row["base"], "images_seen": row["budget"]} for row in table.rows]
    return Report(
        title="How far does a model improve itself?",
        subtitle="Recipe sims-figure-4: the base, and extrapolation away from its copy, over weight and budget.",
        table=Table(shown, table.meta),
        metrics=metric_infos(distance, {}),
        by=("method", "budget", "weight"),
        findings=findings,
        figures=figures,
        command=command,
        notes=(
            "Means over seeds, bands of one standard deviation: bases differ more than candidates of one base.",
            "All candidates of a seed share their noise, which nothing was chosen by.",
        ),
    )


def _name(row: dict[str, Any]) -> str:
    if row["weight"] == 0:
        return "base"
    return "sims" if row["space"] == "function" else "neon"


def _findings(
    base: str, rows: list[dict[str, Any]], plain: dict[int, dict[str, Any]], verdicts: list[dict[str, Any]], metric: str
) -> list[Finding]:
    """The gain of weight 1 in function space at each budget, and the tool's own conclusion."""
    result = []
    for budget in dict.fromkeys(row["budget"] for row in rows if row["weight"]):
        chosen = {
            row["seed"]: row
            for row in rows
            if row["space"] == "function" and row["weight"] == 1.0 and row["budget"] == budget
        }
        seeds = sorted(plain.keys() & chosen.keys())
        if len(seeds) < 2:
            continue
        gain = paired_gain([plain[s][metric] for s in seeds], [chosen[s][metric] for s in seeds])
        text = (
            f"Base “{base}”: SIMS at weight 1 after {budget:,} images changes {metric} by {-gain.mean:+.0%} on average "
            f"over {len(seeds)} seeds (95 % interval {-gain.high:+.0%} to {-gain.low:+.0%})"
        )
        if "coverage" in plain[seeds[0]]:
            cover = paired_gain(
                [plain[s]["coverage"] for s in seeds], [chosen[s]["coverage"] for s in seeds], higher=True
            )
            text += f", coverage by {cover.mean:+.0%}"
        verdict = "good" if gain.low > 0 else "bad" if gain.high < 0 else "neutral"
        result.append(Finding(text + ".", verdict))  # type: ignore[arg-type]
    sure = sum(row["improves"] for row in verdicts)
    if verdicts:
        text = f"Base “{base}”: asked for weight 1, the tool finds a sure gain in {sure} of {len(verdicts)} seeds"
        text += " and recommends keeping the base in the others." if sure < len(verdicts) else "."
        result.append(Finding(text, "good" if sure == len(verdicts) else "neutral"))
    return result
