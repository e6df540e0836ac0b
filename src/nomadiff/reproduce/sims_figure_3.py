"""SIMS Figure 3: the distance over the plane spanned by a base, an auxiliary and an advanced model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.files import write_text
from nomadiff.jobs import computed_with, run_jobs
from nomadiff.loops.madness import bootstrap_ratio
from nomadiff.plane.distances import bures_wasserstein
from nomadiff.plane.learner import Learner, learner_config
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.plane.worlds import world
from nomadiff.reports.figures import keep_figure, logarithmic
from nomadiff.reports.markdown import markdown_table, significant
from nomadiff.reports.palette import INK
from nomadiff.reproduce.plane_recipes import EVALUATION, TRAINED_POINT, few_runs, plan_text, sizes_of
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["RATES", "RECIPE", "SPACES"]

SPACES = ("parameters", "function")
RATES = (1e-4, 3e-4)
"""Learning rates of the fine-tunings: a small step from the base, where both spaces should agree, and a larger one."""

_EPOCHS, _BATCH = 2, 2048


@dataclass(frozen=True)
class _Scale:
    runs: int
    fine_tuning_count: int
    evaluation_count: int
    weights_s: tuple[float, ...]
    weights_a: tuple[float, ...]


_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 4.0)
_SCALES = {
    "smoke": _Scale(2, 5_000, 500, (0.0, 1.0), (0.0, -1.0)),
    "small": _Scale(32, 100_000, 4_000, _STEPS, (0.0, -0.5, -1.0, -1.5, -2.0)),
    "paper": _Scale(200, 100_000, 20_000, _STEPS, (0.5, 0.0, -0.25, -0.5, -0.75, -1.0, -1.25, -1.5, -1.75, -2.0)),
}


@dataclass(frozen=True)
class _Setting:
    """Settings common to every run of the figure; the learner is given by name."""

    learner: str
    seed: int
    scale: _Scale


def _setting(request: Request) -> _Setting:
    learner, *more = request.learners or ("P",)
    if more:
        raise UsageError("sims-figure-3 takes one learner at a time")
    learner_config(learner)  # raises for an unknown name
    return _Setting(learner, mixed_seed(request.seed or 0, 3), sizes_of(_SCALES, request, "runs"))


def _run(request: Request) -> Result:
    """Train the three models of every run and measure their combinations.

    A base is trained on 1000 real points; an auxiliary is the base fine-tuned on its own samples, an advanced model the
    base fine-tuned on as many new real points (10^5 in the paper). Sampled is
    ``(1 + w_a + w_s) base - w_a advanced - w_s auxiliary``, of the weights or of the scores.

    Files: ``summary`` (a row a learning rate, space and pair of weights) and ``runs`` (a row a run beside), JSON and
    CSV; ``figure-3`` (PNG and SVG); ``summary.md``.

    Returns:
        The rows of ``summary``.
    """
    setting, out = _setting(request), request.out
    Learner(learner_config(setting.learner))  # raises for a missing numba before anything is written
    about = {
        "recipe": "sims-figure-3",
        "setting": asdict(setting),
        "learner": asdict(learner_config(setting.learner)),
    }
    results = run_jobs(
        partial(_one, setting),
        [(index,) for index in range(setting.scale.runs)],
        out / "runs.journal.jsonl",
        about | {"computed_with": computed_with()},
        processes=request.processes,
        warm_up=partial(_one, replace(setting, scale=_Scale(1, 64, 4, (0.0,), (0.0,))), 0),
    )
    rows = [{"run": index, **row} for (index,), result in results.items() for row in result]
    Table(rows, about).write(out / "runs.json")
    summary = Table(_summary_rows(rows), about)
    summary.write(out / "summary.json")
    keep_figure(_figure(setting, summary.rows), out / "figure-3")
    text = _text(setting, summary.rows, rows)
    write_text(out / "summary.md", text)
    return Result(summary, text)


def _one(setting: _Setting, index: int) -> list[dict[str, Any]]:
    """All combinations of one run, at both learning rates and in both spaces."""
    sizes, gaussian = setting.scale, world("gaussian")
    learner = Learner(learner_config(setting.learner))

    def seeds(*parts: int) -> tuple[int]:
        return (mixed_seed(setting.seed, index, *parts),)

    real = gaussian.sample(1000, *seeds(0))[None]
    base = learner.train(learner.start(seeds(1)), real, seeds(2), plan=learner.config.base)
    own = learner.sample([(1.0, base, 0.0)], sizes.fine_tuning_count, seeds(3))
    more = gaussian.sample(sizes.fine_tuning_count, *seeds(4))[None]
    rows = []
    for rate in RATES:
        plan = TrainingPlan(_EPOCHS, _BATCH, rate)
        auxiliary = learner.train(base, own, seeds(5), plan=plan)
        advanced = learner.train(base, more, seeds(6), plan=plan)
        moved = float(np.linalg.norm(auxiliary - base) / np.linalg.norm(base))
        for space in SPACES:
            for weight_s in sizes.weights_s:
                for weight_a in sizes.weights_a:
                    triple = [(1 + weight_a + weight_s, base), (-weight_a, advanced), (-weight_s, auxiliary)]
                    if space == "parameters":
                        merged = np.zeros_like(base)
                        for coefficient, weights in triple:
                            merged += np.float32(coefficient) * weights
                        combination = [(1.0, merged, 0.0)]
                    else:
                        combination = [(coefficient, weights, 0.0) for coefficient, weights in triple if coefficient]
                    # the same noise for every combination of a run
                    samples = learner.sample(combination, sizes.evaluation_count, seeds(7))
                    distance = float(bures_wasserstein(samples, gaussian)[0])
                    rows.append(
                        {
                            "rate": rate,
                            "space": space,
                            "weight_s": weight_s,
                            "weight_a": weight_a,
                            "moved": moved,
                            "distance": distance if np.isfinite(distance) else None,
                        }
                    )
    return rows


def _summary_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard error and median over runs, and how each pair of weights compares with the base in its own run."""
    values = _by_pair(rows)
    summary = []
    for (rate, space, weight_s, weight_a), distances in values.items():
        ratio, low, high = bootstrap_ratio(distances, values[rate, space, 0.0, 0.0])
        error = distances.std(ddof=1) / len(distances) ** 0.5 if len(distances) > 1 else None
        moved = np.mean([row["moved"] for row in rows if row["rate"] == rate])
        summary.append(
            {
                "rate": rate,
                "space": space,
                "weight_s": weight_s,
                "weight_a": weight_a,
                "runs": len(distances),
                "distance": float(distances.mean()),
                "distance_se": error,
                "distance_median": float(np.median(distances)),
                "to_base": ratio,
                "to_base_low": low,
                "to_base_high": high,
                "moved": float(moved),
            }
        )
    return summary


def _by_pair(rows: Sequence[dict[str, Any]]) -> dict[tuple[float, str, float, float], np.ndarray]:
    """Distances over runs of each (rate, space, weight_s, weight_a)."""
    lists: dict[tuple[float, str, float, float], list[float]] = {}
    for row in rows:
        key = (row["rate"], row["space"], row["weight_s"], row["weight_a"])
        lists.setdefault(key, []).append(np.inf if row["distance"] is None else row["distance"])
    return {key: np.array(values) for key, values in lists.items()}


def _figure(setting: _Setting, summary: Sequence[dict[str, Any]]) -> Any:
    """Maps of the distance over both weights; dashed: the paper's two paths, where one of the weights is 0."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    sizes = setting.scale
    across, along = sorted(sizes.weights_s), sorted(sizes.weights_a)
    finite = [row["distance"] for row in summary if np.isfinite(row["distance"])]
    norm = LogNorm(min(finite), max(finite))
    figure = Figure(figsize=(10.4, 8), layout="constrained")
    for axes, (rate, space) in zip(
        figure.subplots(2, 2).flat, [(rate, space) for rate in RATES for space in SPACES], strict=True
    ):
        rows = {
            (row["weight_s"], row["weight_a"]): row["distance"]
            for row in summary
            if (row["rate"], row["space"]) == (rate, space)
        }
        values = np.array([[rows[weight_s, weight_a] for weight_s in across] for weight_a in along])
        image = axes.imshow(values, origin="lower", aspect="auto", norm=norm, cmap="viridis_r")
        for y, x in np.ndindex(values.shape):
            dark = norm(values[y, x]) > 0.5
            axes.text(
                x, y, significant(float(values[y, x])), ha="center", va="center", color="white" if dark else "black"
            )
        row, column = along.index(0.0), across.index(0.0)
        for corner, width, height in (((-0.5, row - 0.5), len(across), 1), ((column - 0.5, -0.5), 1, len(along))):
            axes.add_patch(Rectangle(corner, width, height, fill=False, color=INK.light, linestyle="--", clip_on=False))
        axes.set_xticks(range(len(across)), [f"{weight:g}" for weight in across])
        axes.set_yticks(range(len(along)), [f"{weight:g}" for weight in along])
        axes.set(xlabel="ω_s (away from own samples)", ylabel="ω_a (negative: toward more real data)")
        axes.set_title(f"{space}, fine-tuned at {rate:g}")
    bar = figure.colorbar(image, ax=figure.axes, label="E[dist] (Bures-Wasserstein)")
    logarithmic(bar.ax)
    figure.suptitle(f"SIMS Figure 3 with learner {setting.learner}; mean of {sizes.runs} runs", color=INK.light)
    return figure


def _text(setting: _Setting, summary: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """The paper's statements on its figure, point by point, with the results here."""
    sizes = setting.scale
    parts = [
        f"# SIMS Figure 3 with learner {setting.learner}\n",
        f"{setting.learner} is {learner_config(setting.learner).caption}. {sizes.runs} runs; base on 1000 real points, "
        f"auxiliary and advanced model fine-tuned on {sizes.fine_tuning_count} points, {_EPOCHS} epochs; distance "
        f"(Bures-Wasserstein) of {sizes.evaluation_count} samples. Changes are against the base in the same runs, with "
        "a 90 % bootstrap interval. The best weights are picked on the runs they are measured on.\n",
    ]
    parts += few_runs(sizes.runs)
    table = []
    for rate in RATES:
        for space in SPACES:
            here = [row for row in summary if (row["rate"], row["space"]) == (rate, space)]
            best = _best_rows(here)
            table.append((f"{rate:g}", space, here[0]["moved"], *(_cell(row) for row in best.values())))
            parts.append("* " + _sentence(rate, space, best, _by_pair(rows)))
    parts += ["\n" + _robustness(summary) + "\n"]
    columns = ["rate", "space", "moved", "base", "best ω_s alone", "best ω_a alone", "best of both"]
    parts.append(markdown_table(columns, table))
    return "\n".join(parts) + "\n"


def _best_rows(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The base, and the best on each axis and off both."""
    chosen = {
        "base": [row for row in rows if row["weight_s"] == 0 == row["weight_a"]],
        "s": [row for row in rows if row["weight_s"] != 0 == row["weight_a"]],
        "a": [row for row in rows if row["weight_a"] != 0 == row["weight_s"]],
        "both": [row for row in rows if row["weight_s"] != 0 != row["weight_a"]],
    }
    return {name: min(some, key=lambda row: row["distance"]) for name, some in chosen.items()}


def _cell(row: dict[str, Any]) -> str:
    return f"{significant(row['distance'])} ({row['weight_s']:g}, {row['weight_a']:g})"


def _sentence(rate: float, space: str, best: dict[str, dict[str, Any]], values: dict) -> str:
    def change(row: dict[str, Any]) -> str:
        low, high = 100 * (row["to_base_low"] - 1), 100 * (row["to_base_high"] - 1)
        return f"{100 * (row['to_base'] - 1):+.0f} % [{low:+.0f}, {high:+.0f}]"

    def distances(row: dict[str, Any]) -> np.ndarray:
        return values[rate, space, row["weight_s"], row["weight_a"]]

    better = [
        name
        for name, row in (("away from own samples", best["s"]), ("toward more real data", best["a"]))
        if row["to_base_high"] < 1
    ]
    improved = {
        2: "both axes improve",
        1: f"only the axis {better[0] if better else ''} improves",
        0: "no axis improves",
    }
    alone = min((best["s"], best["a"]), key=lambda row: row["distance"])
    _, _, high = bootstrap_ratio(distances(best["both"]), distances(alone))
    combined = "best beyond doubt" if high < 1 else "not beyond doubt better than one axis alone"
    return (
        f"{space} space, rate {rate:g}: {improved[len(better)]} (ω_s = {best['s']['weight_s']:g}: {change(best['s'])}; "
        f"ω_a = {best['a']['weight_a']:g}: {change(best['a'])}); the combination (ω_s, ω_a) = "
        f"({best['both']['weight_s']:g}, {best['both']['weight_a']:g}): {change(best['both'])}, {combined}"
    )


def _robustness(summary: Sequence[dict[str, Any]]) -> str:
    """Function against parameter space along the path away from own samples: why the paper adopts function space."""
    sentences = []
    for rate in RATES:
        path = {
            space: [
                row["distance"]
                for row in summary
                if (row["rate"], row["space"], row["weight_a"]) == (rate, space, 0.0) and row["weight_s"] > 0
            ]
            for space in SPACES
        }
        wins = sum(function < merged for function, merged in zip(path["function"], path["parameters"]))
        sentences.append(
            f"at rate {rate:g} function space is nearer at {wins} of {len(path['function'])} weights ω_s, its worst "
            f"{significant(max(path['function']))} against {significant(max(path['parameters']))}"
        )
    return "Robustness: " + "; ".join(sentences) + "."


def _plan(request: Request) -> str:
    sizes = _setting(request).scale
    pairs = len(sizes.weights_s) * len(sizes.weights_a) * len(RATES)
    evaluations = sizes.fine_tuning_count * 39 + pairs * sizes.evaluation_count * 39 * 4
    trained = 2 * len(RATES) * _EPOCHS * sizes.fine_tuning_count
    return plan_text(
        f"{sizes.runs} runs of 3 models at {len(RATES)} learning rates and {pairs * len(SPACES)} combinations",
        sizes.runs * (evaluations * EVALUATION + trained * TRAINED_POINT),
    )


RECIPE = Recipe(
    name="sims-figure-3",
    description=(
        "SIMS Figure 3: distance against the weights of an auxiliary (own samples) and an advanced model (real data)"
    ),
    scales=tuple(_SCALES),
    options=("seed", "runs", "processes", "learners"),
    plan=_plan,
    run=_run,
)
