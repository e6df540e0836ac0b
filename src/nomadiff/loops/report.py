"""What loops showed, as tables, verdicts, curves and a page: the same for loops of images and for loops of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.loops.madness import RUNS, Madness, madness
from nomadiff.metrics.evidence import seeds_text
from nomadiff.reports.numbers import cell_text
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reports.plots import metric_lines
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table

__all__ = ["report_loops"]

_VERDICTS: dict[str, Literal["good", "bad", "neutral"]] = {"prevented": "good", "mitigated": "neutral", "MAD": "bad"}
_ENOUGH_GENERATIONS = 8


def report_loops(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    out: str | Path,
    *,
    distance: str,
    kind: str = "",
    seeds: Sequence[int] | None = None,
    floor: Mapping[str, float] | None = None,
    shown: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
    untrained: Mapping[str, str] | None = None,
    **page: Any,
) -> Table:
    """Judge loops and write ``metrics``, ``madness`` (JSON and CSV each) and ``report.html``.

    Args:
        curves: what :meth:`~nomadiff.loops.loop.AutophagousLoop.run` returned: for each algorithm one list of rows a
            run, all of the same number of generations.
        out: folder to write into.
        distance: the distance that decides, one of the fields of the rows.
        kind: kind of the loops, for the table.
        seeds: of the runs; 0, 1, ... unless given.
        floor: what fresh real data score, by field.
        shown: further fields to draw over the generations.
        meta: what the figures depend on, for the tables.
        untrained: why the first generation of an algorithm is not yet a model; no verdict is given on such a curve.
        **page: more of the page: fields of :class:`~nomadiff.reports.page.Report`.

    Returns:
        One row a generation, algorithm and seed: ``method`` (the algorithm), ``kind``, ``source`` (empty), ``seed``,
        the fields of the rows, and ``ratio``, the distance divided by the algorithm's mean first distance.
        ``untrained`` says why an algorithm's rows are not of models. ``meta["madness"]`` holds the verdict on each
        curve, in words.

    Raises:
        UsageError: no run, runs of different length, or rows without that distance.
    """
    floor = dict(floor or {})
    table, verdicts = Table(meta=dict(meta or {})), Table(meta=dict(meta or {}))
    sentences: dict[str, str] = {}
    for name, runs in curves.items():
        values = _values(name, runs, distance)
        judged = madness(values)
        why = (untrained or {}).get(name, "")
        if why:
            judged = replace(judged, verdict="undecided", certain=False)
        sentences[name] = _sentence(judged, distance, values, why)
        verdicts.rows.append({"method": name, "runs": len(runs), "generations": values.shape[1], **asdict(judged)})
        if why:
            verdicts.rows[-1]["untrained"] = why
        if len(runs) == 1:  # one run has no spread to take an interval from
            verdicts.rows[-1] |= {"ratio_low": None, "ratio_high": None, "certain": False}
        for seed, run in zip(range(len(runs)) if seeds is None else seeds, runs, strict=True):
            keys = {"method": name, "kind": kind, "source": "", "seed": seed}
            told = {"untrained": why} if why else {}
            table.rows += [{**keys, **row, "ratio": row[distance] / judged.g1_mean, **told} for row in run]
    if not table.rows:
        raise UsageError("there is no loop to report")
    table.meta["madness"] = sentences
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    verdicts.write(folder / "madness.json")
    table.write(folder / "metrics.json")
    notes = [*page.pop("notes", ()), *_limits(verdicts)]
    page.setdefault("title", "Does this loop go MAD?")
    page.setdefault("metrics", [MetricInfo(distance, distance, floor=floor.get(distance))])
    Report(
        table=table,
        by=("method", "generation"),
        figures=[*_curves(table, distance, shown, floor), *page.pop("figures", ())],
        findings=[
            Finding(
                f"{row['method']}: {sentences[row['method']]}",
                _VERDICTS[row["verdict"]] if row["certain"] else "neutral",
            )
            for row in verdicts.rows
        ],
        notes=notes,
        **page,
    ).write(folder / "report.html")
    return table


def _values(name: str, runs: Sequence[Sequence[Mapping[str, Any]]], distance: str) -> np.ndarray:
    if len({len(run) for run in runs}) != 1:
        raise UsageError(f"{name}: loops of one algorithm must have equally many generations, and there must be one")
    if missing := [row for run in runs for row in run if distance not in row]:
        raise UsageError(f"{name}: no distance '{distance}' among {', '.join(missing[0])}")
    return np.array([[row[distance] for row in run] for run in runs], dtype=float)


def _sentence(judged: Madness, distance: str, values: np.ndarray, untrained: str = "") -> str:
    """The verdict on a curve in words, ratio and absolute distances side by side."""
    runs = len(values)
    if runs == 1:
        spread = "1 run, so no interval"
    else:
        spread = f"5-95 % {judged.ratio_low:.3g} to {judged.ratio_high:.3g} over {runs} runs"
    verdict = judged.verdict
    if untrained:
        verdict += f": generation 1 is not yet a model ({untrained}); train every generation longer"
    elif verdict == "undecided":
        verdict += f" (it takes {RUNS} runs)" if runs < RUNS else " (the curve still moves, or is too short to tell)"
    elif not judged.certain:
        verdict += ", uncertain"
    return (
        f"MADness ratio {judged.ratio:.3g} ({spread}): {verdict}. {distance} {cell_text(judged.g1_mean)} at generation "
        f"1, {cell_text(judged.g_inf_mean)} in the end (medians {cell_text(judged.g1_median)} and "
        f"{cell_text(judged.g_inf_median)})"
    )


def _curves(table: Table, distance: str, shown: Sequence[str], floor: Mapping[str, float]) -> list[Figure]:
    axis: dict[str, Any] = {"x": "generation", "by": "method", "x_label": "generation"}
    figures = [
        Figure(
            f"{distance} over generations",
            metric_lines(table.rows, metric=distance, label=distance, floor=floor.get(distance), **axis),
            "Mean over seeds, band of one standard deviation."
            + (" The line is fresh real data." if distance in floor else ""),
        ),
        Figure(
            "MADness ratio",
            metric_lines(table.rows, metric="ratio", label="E[dist(Gt)] / E[dist(G1)]", floor=None, **axis),
            "The same distances, each divided by its algorithm's own first: a method that is bad from the start has a "
            "good ratio.",
        ),
    ]
    for name in shown:
        figures.append(
            Figure(f"{name} over generations", metric_lines(table.rows, metric=name, label=name, **axis), "")
        )
    return figures


def _limits(verdicts: Table) -> list[str]:
    """What so few generations and runs cannot tell."""
    notes = []
    generations, runs = (min(row[name] for row in verdicts.rows) for name in ("generations", "runs"))
    if generations < _ENOUGH_GENERATIONS:
        notes.append(
            f"{generations} generations cannot tell a curve that still rises from one at rest "
            f"({_ENOUGH_GENERATIONS} are needed)."
        )
    if runs < RUNS:
        notes.append(f"{seeds_text(runs)}: intervals from so few runs are narrower than the truth.")
    return notes
