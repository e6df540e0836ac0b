"""Search for the learner of SIMS section 4.2.1: whose standard ratios grow as 1.71, 2.46, 3.99, 6.69?

    python benchmarks/learner_search.py OUT [--processes N]

The paper gives epochs, data sizes and the notebook its code comes from, but neither network, batch nor learning rate.
Screened are all combinations of four networks, four batches and four constant learning rates: standard training only
(weight 0), n_s = 125 and 1000, 4 runs x 8 generations, about eight minutes of one core. The two nearest to
the paper in log ratio are then run on fresh seeds with all four sizes and SIMS at three weights (16 x 20, half an hour
of one core). Whatever comes out was chosen by looking at the screening: the fresh seeds are what counts. Interrupted,
it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from nomadiff.experiments.plane_recipes import interval, markdown_table
from nomadiff.experiments.sims_figure_5 import PAPER
from nomadiff.files import write_text
from nomadiff.loops.grid import Cell, Grid
from nomadiff.loops.learner import LearnerConfig
from nomadiff.loops.network import Network
from nomadiff.loops.plan import TrainingPlan
from nomadiff.loops.schedule import STEPS
from nomadiff.tables import Table

NETWORKS = {
    "residual, norm, raw t": Network(),
    "residual, raw t": Network(layer_norm=False),
    "plain, raw t": Network(residual=False, layer_norm=False),
    "plain, t/T": Network(residual=False, layer_norm=False, time_scale=1 / STEPS),
}
BATCHES = (2048, 512, 256, 128)
RATES = (3e-4, 1e-3, 2e-3, 5e-3)
WEIGHTS = (0.0, 1.0, 2.0, 3.0)
FINALISTS = 2


def learners() -> list[LearnerConfig]:
    """Every learner that is screened; the auxiliary has the base's settings, as the paper says."""
    return [
        LearnerConfig(
            f"{name}, batch {batch}, rate {rate:g}",
            "screened",
            network,
            base=TrainingPlan(100, batch, rate),
            auxiliary=TrainingPlan(50, batch, rate),
        )
        for name, network in NETWORKS.items()
        for batch in BATCHES
        for rate in RATES
    ]


def off(rows: list[dict[str, Any]]) -> float:
    """Root mean square of the log of (ratio / the paper's ratio) over the sizes; 0.69 is a factor of two."""
    logs = [math.log(row["ratio"] / PAPER[row["n_s"]][0]) for row in rows]
    return math.sqrt(sum(value**2 for value in logs) / len(logs))


def main() -> None:
    """Screen, then measure the nearest on fresh seeds; prints and writes what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, help="worker processes; default one for each core")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    configs = learners()
    screening = Grid(
        cells=tuple(Cell(config.name, "sims", 0.0, n_s) for config in configs for n_s in (125, 1000)),
        runs=4,
        generations=8,
        seed=arguments.seed,
        learners=tuple(configs),
    ).run(arguments.out, processes=arguments.processes, name="screening")
    rows = screening.summary()
    by_learner = {config.name: [row for row in rows if row["learner"] == config.name] for config in configs}
    ranked = sorted(configs, key=lambda config: off(by_learner[config.name]))
    Table(
        [
            {"learner": config.name, "off": off(by_learner[config.name])}
            | {f"ratio_{row['n_s']}": row["ratio"] for row in by_learner[config.name]}
            | {"g1_mean": by_learner[config.name][0]["g1_mean"]}
            for config in ranked
        ],
        {"paper": {str(n_s): ratio for n_s, (ratio, _) in PAPER.items()}, "runs": 4, "generations": 8},
    ).write(arguments.out / "ranking.json")

    best = ranked[:FINALISTS]
    finals = Grid(
        cells=tuple(Cell(config.name, "sims", weight, n_s) for config in best for n_s in PAPER for weight in WEIGHTS),
        runs=16,
        generations=20,
        seed=arguments.seed + 1,
        learners=tuple(best),
    ).run(arguments.out, processes=arguments.processes, name="finals")
    rows = finals.summary()
    parts = ["# Which learner is the paper's?\n", " ".join((__doc__ or "").split("\n\n")[2].split()) + "\n"]
    for config in best:
        mine = [row for row in rows if row["learner"] == config.name]
        standard = [row for row in mine if row["weight"] == 0]
        parts.append(f"## {config.name}: off by {off(standard):.2f} in log ratio on fresh seeds\n")
        lines = []
        for row in standard:
            guided = [other for other in mine if other["n_s"] == row["n_s"] and other["weight"] > 0]
            smallest = min(guided, key=lambda other: other["ratio"])
            lines.append(
                (
                    *(row["n_s"], row["g1_mean"], row["ratio"], interval(row["ratio_low"], row["ratio_high"])),
                    *(PAPER[row["n_s"]][0], f"{smallest['weight']:g}", smallest["g1_mean"], smallest["ratio"]),
                    *(interval(smallest["ratio_low"], smallest["ratio_high"]), PAPER[row["n_s"]][1]),
                )
            )
        columns = ["n_s", "G¹", "standard", "interval", "paper", "ω", "G¹ with SIMS", "SIMS", "interval", "paper"]
        parts.append(markdown_table(columns, lines) + "\n")
    text = "\n".join(parts)
    write_text(arguments.out / "search.md", text)
    print(text)


if __name__ == "__main__":
    main()
