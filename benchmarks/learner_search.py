"""Search for the learner of SIMS section 4.2.1: whose ratios grow as 1.71, 2.46, 3.99, 6.69, and with SIMS hardly?

    python benchmarks/learner_search.py OUT [--processes N]

The paper gives epochs, data sizes and the notebook its code comes from, but neither network, batch nor learning rate.
First, all combinations of four networks, four batches and four constant learning rates are screened by standard
training alone (weight 0). For the six nearest to the paper in log ratio, four learning rates of the auxiliary and four
weights are then screened by SIMS' ratios; kept are those whose first generation SIMS improves, as the paper's does.
Both screenings have n_s = 125 and 1000 and 4 runs x 8 generations. The three nearest in both are then run on fresh
seeds with all four sizes and weights, 16 runs x 20 generations. Whatever comes out was chosen by looking at the
screenings: the fresh seeds are what counts. An hour and a half of one core; interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nomadiff.files import write_text
from nomadiff.plane.grid import Cell, Grid
from nomadiff.plane.learner import LearnerConfig
from nomadiff.plane.network import Network
from nomadiff.plane.schedule import STEPS
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.reports.markdown import interval, markdown_table
from nomadiff.reproduce.sims_figure_5_text import PAPER
from nomadiff.tables import Table

NETWORKS = {
    "residual, norm, raw t": Network(),
    "residual, raw t": Network(layer_norm=False),
    "plain, raw t": Network(residual=False, layer_norm=False),
    "plain, t/T": Network(residual=False, layer_norm=False, time_scale=1 / STEPS),
}
BATCHES = (2048, 512, 256, 128)
RATES = (3e-4, 1e-3, 2e-3, 5e-3)
AUXILIARY_RATES = (1.0, 0.3, 0.1, 0.03)
"""Learning rates of the auxiliary, as shares of the base's."""
WEIGHTS = (1.0, 2.0, 3.0, 5.0)
SCREENED_SIZES = (125, 1000)
NEAREST, FINALISTS = 6, 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A learner, an auxiliary and a weight, with how far they are from the paper.

    Attributes:
        config: the learner.
        weight: the guidance weight at which SIMS' ratios are nearest.
        standard: its distance in the ratios of standard training (root mean square of the log).
        sims: its distance in SIMS' ratios at that weight.
        first: E[dist(G^1)] with SIMS at that weight over that without.
    """

    config: LearnerConfig
    weight: float
    standard: float
    sims: float
    first: float

    @property
    def off(self) -> float:
        """Distance in all ratios together."""
        return math.hypot(self.standard, self.sims) / math.sqrt(2)


def learners() -> list[LearnerConfig]:
    """Every learner that is screened by standard training; the auxiliary has the base's settings."""
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


def auxiliaries(config: LearnerConfig) -> list[LearnerConfig]:
    """The learner with every learning rate of the auxiliary."""
    return [
        replace(
            config,
            name=f"{config.name}, auxiliary {share:g} of it",
            auxiliary=replace(config.auxiliary, rate=share * config.base.rate),
        )
        for share in AUXILIARY_RATES
    ]


def off(rows: Iterable[Row], column: int) -> float:
    """Root mean square of the log of (ratio / the paper's ratio) over the sizes; 0.69 is a factor of two.

    Args:
        rows: summary rows, one a size.
        column: 0 compares with the paper's standard training, 1 with its SIMS.
    """
    logs = [math.log(row["ratio"] / PAPER[row["n_s"]][column]) for row in rows]
    return math.sqrt(sum(value**2 for value in logs) / len(logs))


def summary(
    out: Path, configs: Sequence[LearnerConfig], weights: Sequence[float], name: str, **sizes: Any
) -> dict[tuple[str, float], list[Row]]:
    """Run SIMS with every learner and weight; the rows of all n_s by learner and weight."""
    amounts, processes = sizes.pop("amounts"), sizes.pop("processes")
    cells = (Cell(config.name, "sims", weight, n_s) for config in configs for weight in weights for n_s in amounts)
    grid = Grid(tuple(cells), learners=tuple(configs), **sizes)
    found: dict[tuple[str, float], list[Row]] = {}
    for row in grid.run(out, processes=processes, name=name).summary():
        found.setdefault((row["learner"], row["weight"]), []).append(row)
    return found


def search(out: Path, seed: int, processes: int | None) -> list[Candidate]:
    """Both screenings; the candidates that improve the first generation, nearest first. Writes ``ranking`` tables."""
    sizes = {"amounts": SCREENED_SIZES, "runs": 4, "generations": 8, "processes": processes}
    configs = learners()
    standard = {
        name: rows for (name, _), rows in summary(out, configs, (0.0,), "screening", seed=seed, **sizes).items()
    }
    configs.sort(key=lambda config: off(standard[config.name], 0))
    _ranking([(config.name, 0.0, off(standard[config.name], 0), standard[config.name]) for config in configs]).write(
        out / "ranking-standard.json"
    )
    tried = [(config, each) for config in configs[:NEAREST] for each in auxiliaries(config)]
    guided = summary(out, [each for _, each in tried], WEIGHTS, "auxiliaries", seed=seed, **sizes)
    candidates = []
    for config, each in tried:
        plain = standard[config.name]
        for weight in WEIGHTS:
            rows = guided[each.name, weight]
            first = rows[0]["g1_mean"] / plain[0]["g1_mean"]  # G^1 is the same at every n_s
            candidates.append(Candidate(each, weight, off(plain, 0), off(rows, 1), first))
    candidates.sort(key=lambda candidate: candidate.off)
    _ranking(
        [(each.config.name, each.weight, each.off, guided[each.config.name, each.weight]) for each in candidates]
    ).write(out / "ranking-sims.json")
    return [candidate for candidate in candidates if candidate.first < 1]


def _ranking(ranked: Iterable[tuple[str, float, float, list[Row]]]) -> Table:
    rows = [
        {"learner": name, "weight": weight, "off": distance, "g1_mean": found[0]["g1_mean"]}
        | {f"ratio_{row['n_s']}": row["ratio"] for row in found}
        for name, weight, distance, found in ranked
    ]
    return Table(rows, {"paper": {str(n_s): list(ratios) for n_s, ratios in PAPER.items()}})


def report(candidates: Sequence[Candidate], found: dict[tuple[str, float], list[Row]]) -> str:
    """The finalists on fresh seeds, in Markdown."""
    parts = ["# Which learner is the paper's?\n", " ".join((__doc__ or "").split("\n\n")[2].split()) + "\n"]
    for candidate in candidates:
        name = candidate.config.name
        plain, best = found[name, 0.0], found[name, candidate.weight]
        parts.append(
            f"## {name}\n\nScreened: off by {candidate.standard:.2f} (standard) and {candidate.sims:.2f} (SIMS at "
            f"ω = {candidate.weight:g}) in log ratio, G¹ x {candidate.first:.2f}. On fresh seeds: {off(plain, 0):.2f} "
            f"and {off(best, 1):.2f}.\n"
        )
        lines = []
        for index, row in enumerate(plain):
            guided = [found[name, weight][index] for weight in WEIGHTS]
            paper = PAPER[row["n_s"]]
            lines.append((row["n_s"], paper[0], _ratio(row), paper[1], *map(_ratio, guided)))
        columns = ["n_s", "paper", "standard", "paper, best ω", *(f"SIMS ω = {weight:g}" for weight in WEIGHTS)]
        parts.append(markdown_table(columns, lines) + "\n")
        lines = [[f"{weight:g}", found[name, weight][0]["g1_mean"]] for weight in (0.0, *WEIGHTS)]
        parts.append(markdown_table(["ω", "distance of G¹"], lines) + "\n")
    return "\n".join(parts)


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.3g} {interval(row['ratio_low'], row['ratio_high'])}"


def main() -> None:
    """Screen twice, then measure the nearest on fresh seeds; prints and writes what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, help="worker processes; default one for each core")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    nearest: dict[str, Candidate] = {}
    for candidate in search(arguments.out, arguments.seed, arguments.processes):
        nearest.setdefault(candidate.config.name, candidate)
    finalists = list(nearest.values())[:FINALISTS]
    if not finalists:
        raise SystemExit("SIMS improves the first generation of none of the learners that are near the paper")
    sizes = {"amounts": tuple(PAPER), "runs": 16, "generations": 20, "processes": arguments.processes}
    found: dict[tuple[str, float], list[Row]] = {}
    for rank, candidate in enumerate(finalists, 1):
        seed = arguments.seed + 1
        found |= summary(arguments.out, [candidate.config], (0.0, *WEIGHTS), f"final-{rank}", seed=seed, **sizes)
    text = report(finalists, found)
    write_text(arguments.out / "search.md", text)
    print(text)


if __name__ == "__main__":
    main()
