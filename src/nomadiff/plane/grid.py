"""Many loops in two dimensions: cells x runs over all cores, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.files import atomic_path
from nomadiff.jobs import Key, computed_with, run_jobs
from nomadiff.loops.loop import AutophagousLoop
from nomadiff.loops.madness import madness
from nomadiff.plane.algorithms import plane_algorithm
from nomadiff.plane.distances import (
    bures_wasserstein,
    exact_transport_floor,
    exact_wasserstein,
    sliced_wasserstein,
)
from nomadiff.plane.learner import Learner, LearnerConfig, learner_config
from nomadiff.plane.worlds import World, world
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

__all__ = ["Cell", "Grid", "GridResult"]

_MOST_ROWS = 1_000_000  # of a table
_TRUTH = 0  # seed of the true samples of exact transport: the same for every cell and grid

_Curves = dict[str, list[list[float | None]]]
"""Name of a distance to a list a run of a number a generation."""


@dataclass(frozen=True)
class Cell:
    """One loop to be run many times.

    Attributes:
        learner: name of a learner: one of the grid's own or of :data:`nomadiff.plane.learner.PRESETS`.
        method: name of an algorithm (:data:`nomadiff.plane.algorithms.ALGORITHMS`).
        weight: its guidance weight.
        n_s: synthetic data a generation makes for its successors.
        kind: kind of loop (:data:`nomadiff.loops.loop.KINDS`).
        world: name of the real distribution (:data:`nomadiff.plane.worlds.WORLDS`).
        n_r: real data in a training set.
        warm_start: train from the predecessor's weights instead of from scratch.
    """

    learner: str
    method: str
    weight: float = 0.0
    n_s: int = 1000
    kind: str = "synthetic augmentation"
    world: str = "gaussian"
    n_r: int = 1000
    warm_start: bool = False

    def loop(self, learner: Learner, evaluation_count: int, exact_count: int = 0) -> AutophagousLoop:
        """The loop of this cell, for a batch of runs.

        Raises:
            UsageError: a name is unknown or the combination cannot be.
        """
        target = _world(self.world)
        distances = {
            "distance": lambda samples: bures_wasserstein(samples, target),
            "sliced": lambda samples: sliced_wasserstein(samples, target),
        }
        if exact_count:
            truth = target.sample(exact_count, _TRUTH)
            distances["exact"] = lambda samples: exact_wasserstein(samples[..., :exact_count, :], truth)
        return AutophagousLoop(
            plane_algorithm(self.method, learner, self.weight),
            self.kind,
            real=lambda count, seeds: np.stack([target.sample(count, seed) for seed in seeds]),
            real_count=self.n_r,
            synthetic_count=self.n_s,
            distances=distances,
            evaluation_count=evaluation_count,
            warm_start=self.warm_start,
        )


@dataclass(frozen=True)
class Grid:
    """Cells, each run ``runs`` times over ``generations``.

    Run ``r`` has the same seed in every cell: its real data, first weights and noise are common random numbers.

    Attributes:
        cells: the loops.
        runs: independent runs of each, every one with new real data.
        generations: generations of each loop.
        seed: seed of the grid.
        evaluation_count: samples a distance is computed on.
        exact_count: how many of them exact optimal transport is computed on, too; 0 leaves it out.
        device: ``"cpu"``, or a PyTorch device for batched runs; see :class:`~nomadiff.plane.learner.Learner`.
        block: runs computed together; 1 is best on a CPU, hundreds on a GPU.
        learners: learners beside the presets, for cells to name.
    """

    cells: tuple[Cell, ...]
    runs: int
    generations: int
    seed: int
    evaluation_count: int = 2000
    exact_count: int = 0
    device: str = "cpu"
    block: int = 1
    learners: tuple[LearnerConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.runs < 1 or self.block < 1 or not self.cells:
            raise UsageError("a grid needs at least one cell, one run and one run at a time")
        if not 0 <= self.exact_count <= self.evaluation_count:
            raise UsageError(
                f"exact transport takes up to the {self.evaluation_count} samples of a model, not {self.exact_count}"
            )
        self._validate_cells()

    def _validate_cells(self) -> None:
        """Raise UsageError for a cell that cannot be run, before the first expensive step."""
        for cell in self.cells:
            self.loop(cell)

    def config(self, name: str) -> LearnerConfig:
        """The configuration of a learner that cells name.

        Raises:
            UsageError: there is none of that name.
        """
        own = {config.name: config for config in self.learners}
        return own[name] if name in own else learner_config(name)

    def loop(self, cell: Cell) -> AutophagousLoop:
        """The loop of one cell, ready to run.

        Raises:
            UsageError: the cell cannot be.
        """
        return cell.loop(_learner(self.config(cell.learner), self.device), self.evaluation_count, self.exact_count)

    def exact_floor(self, cell: Cell) -> float:
        """What the distance ``exact`` is for a perfect model: between two sets of true samples."""
        return exact_transport_floor(_world(cell.world), self.exact_count, _TRUTH)

    def run(self, folder: str | Path, *, processes: int | None = None, name: str = "generations") -> GridResult:
        """Run what is not done yet and write ``<name>.json`` and ``.csv``, one row a cell, run and generation.

        Of more than a million rows, at the paper's scale, that would be gigabytes of text: there the arrays of
        :class:`GridResult` are written, as ``<name>.npz``.

        Each finished unit (a cell's block of runs) is appended to ``<name>.journal.jsonl`` and flushed to disk. Killed
        and called again, the grid goes on with the units it lacks; the tables are the same bit for bit, whatever the
        number of processes (on one kind of processor, which is part of what the journal is checked for).

        Args:
            folder: where the tables go.
            processes: worker processes; None takes one for each core, or a single one for a GPU.
            name: of the tables.

        Raises:
            UsageError: the folder holds another grid's journal.
        """
        folder = Path(folder)
        about = self._about()
        keys = [(cell, start) for cell in range(len(self.cells)) for start in range(0, self.runs, self.block)]
        curves = run_jobs(
            partial(_run_unit, self),
            keys,
            folder / f"{name}.journal.jsonl",
            about,
            processes=processes or (None if self.device == "cpu" else 1),
            warm_up=lambda: _run_unit(self._smallest(), 0, 0),
            label=lambda key: _label(self.cells[key[0]]),
        )
        result = GridResult(self, self._assembled(curves))
        if len(self.cells) * self.runs * self.generations <= _MOST_ROWS:
            Table(rows=result.rows(), meta=about).write(folder / f"{name}.json")
        else:
            with atomic_path(folder / f"{name}.npz") as temporary, open(temporary, "wb") as handle:
                np.savez(handle, **result.distances)  # type: ignore[arg-type]  # numpy's stub wants bool for any keyword
        return result

    def _smallest(self) -> Grid:
        """The smallest grid that compiles everything this one needs."""
        return replace(self, cells=self.cells[:1], runs=1, generations=1, evaluation_count=4, exact_count=0, block=1)

    def _assembled(self, curves: Mapping[Key, _Curves]) -> dict[str, np.ndarray]:
        arrays = {
            name: np.empty((len(self.cells), self.runs, self.generations)) for name in next(iter(curves.values()))
        }
        for (cell, start), unit_curves in curves.items():
            for name, values in unit_curves.items():
                block = np.array(values, dtype=np.float64)  # null, a diverged model, becomes nan
                arrays[name][cell, start : start + len(block)] = np.where(np.isnan(block), np.inf, block)
        return arrays

    def _about(self) -> dict[str, Any]:
        learners = {name: asdict(self.config(name)) for name in dict.fromkeys(cell.learner for cell in self.cells)}
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "runs": self.runs,
            "generations": self.generations,
            "seed": self.seed,
            "evaluation_count": self.evaluation_count,
            "exact_count": self.exact_count,
            "device": self.device,
            "block": self.block,
            "learners": learners,
            "computed_with": computed_with(self.device),
        }


@dataclass(frozen=True)
class GridResult:
    """The distances of a finished grid.

    Attributes:
        grid: what was run.
        distances: name to float64 ``(cells, runs, generations)``, inf for a diverged model. ``distance`` is
            Bures-Wasserstein, ``sliced`` the sliced Wasserstein distance and, on request, ``exact`` optimal transport.
    """

    grid: Grid
    distances: dict[str, np.ndarray]

    def rows(self) -> list[dict[str, Any]]:
        """One row a cell, run and generation: the cell's fields, ``run``, ``generation`` and every distance."""
        grid = self.grid
        return [
            {**asdict(cell), "run": run, "generation": generation + 1}
            | {name: float(values[index, run, generation]) for name, values in self.distances.items()}
            for index, cell in enumerate(grid.cells)
            for run in range(grid.runs)
            for generation in range(grid.generations)
        ]

    def curves(self, cell: Cell, distance: str = "distance") -> np.ndarray:
        """Distances of one cell, float64 ``(runs, generations)``."""
        return self.distances[distance][self.grid.cells.index(cell)]

    def summary(self, distance: str = "distance") -> list[dict[str, Any]]:
        """One row a cell: its fields, ``runs``, ``generations`` and those of :class:`Madness`."""
        size = {"runs": self.grid.runs, "generations": self.grid.generations}
        return [{**asdict(cell), **size, **asdict(madness(self.curves(cell, distance)))} for cell in self.grid.cells]


def _run_unit(grid: Grid, cell_index: int, start: int) -> _Curves:
    """The distances of one cell's block of runs: by name a list a run, in it a number a generation."""
    loop = grid.loop(grid.cells[cell_index])
    seeds = tuple(mixed_seed(grid.seed, run) for run in range(start, min(start + grid.block, grid.runs)))
    rows = loop.run(grid.generations, seeds)
    return {name: [[_number(row[name][run]) for row in rows] for run in range(len(seeds))] for name in loop.distances}


def _number(value: float) -> float | None:
    """A distance as JSON takes it: None stands for a diverged model."""
    return float(value) if np.isfinite(value) else None


@cache
def _world(name: str) -> World:
    return world(name)


@cache
def _learner(config: LearnerConfig, device: str) -> Learner:
    return Learner(config, device)


def _label(cell: Cell) -> str:
    return f"{cell.learner} {cell.method} w={cell.weight:g} n_s={cell.n_s}"
