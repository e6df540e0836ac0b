from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from nomadiff.errors import DataError, UsageError
from nomadiff.plane import grid as grid_module
from nomadiff.plane.grid import Cell, Grid
from nomadiff.plane.learner import LearnerConfig
from nomadiff.plane.network import Network
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.tables import read_table

# hardly any steps: these tests are of the grid, not of what is learnt
QUICK = LearnerConfig("quick", "", Network(), TrainingPlan(2, 64, 2e-3), TrainingPlan(1, 64, 3e-4), 20)


def make_grid(**changes: Any) -> Grid:
    cells = (Cell("quick", "sims", 0.0, n_s=20, n_r=50), Cell("quick", "sims", 1.0, n_s=20, n_r=50))
    options = {"cells": cells, "runs": 3, "generations": 3, "seed": 4, "evaluation_count": 30, "learners": (QUICK,)}
    return Grid(**(options | changes))


def tables(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "generations.json").read_bytes(), (folder / "generations.csv").read_bytes()


@pytest.mark.slow
def test_rows_are_in_order_and_runs_are_paired(tmp_path: Path) -> None:
    result = make_grid().run(tmp_path, processes=1)
    rows = read_table(tmp_path / "generations.json").rows
    assert [(row["weight"], row["run"], row["generation"]) for row in rows] == [
        (weight, run, generation) for weight in (0.0, 1.0) for run in range(3) for generation in (1, 2, 3)
    ]
    assert all(row["distance"] > 0 and row["sliced"] > 0 for row in rows)
    assert result.distances["distance"].shape == (2, 3, 3)
    # the same seed in both cells: standard training under two names is the same loop
    both = (Cell("quick", "standard", n_s=20, n_r=50), Cell("quick", "sims", 0.0, n_s=20, n_r=50))
    paired = make_grid(cells=both).run(tmp_path / "paired", processes=1).distances["distance"]
    np.testing.assert_array_equal(paired[0], paired[1])
    np.testing.assert_array_equal(paired[1], result.distances["distance"][0])
    assert len(np.unique(paired[0])) == 9


@pytest.mark.parametrize("after", range(6))
def test_an_interrupted_grid_goes_on_to_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    make_grid().run(tmp_path / "whole", processes=1)
    real_unit, done = grid_module._run_unit, []

    def unit_or_death(*arguments: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(arguments)
        return real_unit(*arguments)

    monkeypatch.setattr(grid_module, "_run_unit", unit_or_death)
    with pytest.raises(KeyboardInterrupt):
        make_grid().run(tmp_path / "killed", processes=1)
    journal = tmp_path / "killed" / "generations.journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"unit": [1, 2], "curv')  # the line death tore
    after = -1
    make_grid().run(tmp_path / "killed", processes=1)
    assert len(done) == 6  # nothing was computed twice
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    make_grid().run(tmp_path / "killed", processes=1)
    assert len(done) == 6 and tables(tmp_path / "killed") == tables(tmp_path / "whole")


def test_two_processes_give_the_same_tables(tmp_path: Path) -> None:
    for processes in (1, 2):
        make_grid(runs=2).run(tmp_path / str(processes), processes=processes)
    assert tables(tmp_path / "1") == tables(tmp_path / "2")


def test_blocks_of_runs_change_nothing_on_a_cpu(tmp_path: Path) -> None:
    alone = make_grid().run(tmp_path / "1", processes=1)
    together = make_grid(block=2).run(tmp_path / "2", processes=1)
    for name, values in alone.distances.items():
        np.testing.assert_array_equal(together.distances[name], values)


def test_a_table_of_millions_of_rows_is_written_as_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the paper's scale the table was text of five gigabytes, which its own reader refused."""
    monkeypatch.setattr(grid_module, "_MOST_ROWS", 10)
    found = make_grid().run(tmp_path, processes=1)
    assert {path.name for path in tmp_path.glob("generations*")} == {"generations.journal.jsonl", "generations.npz"}
    with np.load(tmp_path / "generations.npz") as arrays:
        assert arrays.keys() == found.distances.keys() and arrays["distance"].shape == (2, 3, 3)
        assert (arrays["distance"] == found.distances["distance"]).all()


def test_a_batched_device_gives_nearly_the_same(tmp_path: Path) -> None:
    alone = make_grid().run(tmp_path / "1", processes=1).distances["distance"]
    batched = make_grid(device="torch", block=3).run(tmp_path / "2", processes=1).distances["distance"]
    np.testing.assert_allclose(batched, alone, rtol=0.05)


def test_another_grids_journal_is_refused(tmp_path: Path) -> None:
    make_grid().run(tmp_path, processes=1)
    with pytest.raises(UsageError, match=r"other settings \(seed: 4 -> 5\)"):
        make_grid(seed=5).run(tmp_path, processes=1)
    journal = tmp_path / "generations.journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"rubbish\n" + lines[1])
    with pytest.raises(DataError, match="is damaged"):
        make_grid().run(tmp_path, processes=1)


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    """Each did every job, and the later one cut off the line that the other was writing."""
    lock = FileLock(tmp_path / ".generations.journal.jsonl.lock")
    with lock, pytest.raises(UsageError, match="journal.jsonl is in use by another process"):
        make_grid().run(tmp_path, processes=1)


def test_summary_has_the_papers_columns(tmp_path: Path) -> None:
    result = make_grid().run(tmp_path, processes=1)
    row = result.summary()[1]
    assert (row["learner"], row["method"], row["weight"], row["n_s"]) == ("quick", "sims", 1.0, 20)
    assert (row["runs"], row["generations"]) == (3, 3)
    curve = result.curves(result.grid.cells[1])
    assert row["g1_mean"] == pytest.approx(curve[:, 0].mean())
    assert row["ratio"] == pytest.approx(curve[:, 1:].mean() / curve[:, 0].mean())
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_a_diverged_loop_is_null_in_tables_and_infinite_in_results(tmp_path: Path) -> None:
    wild = LearnerConfig("wild", "", Network(), TrainingPlan(2, 64, 1e30), TrainingPlan(1, 64, 1e30), 20)
    cells = (Cell("wild", "standard", n_s=20, n_r=50),)
    result = make_grid(cells=cells, runs=1, learners=(wild,)).run(tmp_path, processes=1)
    assert np.isinf(result.distances["distance"]).all()
    assert json.loads((tmp_path / "generations.json").read_text())["rows"][0]["distance"] is None


def test_exact_transport_on_request(tmp_path: Path) -> None:
    grid = make_grid(exact_count=20)
    result = grid.run(tmp_path, processes=1)
    assert (result.distances["exact"] > 0).all()
    np.testing.assert_array_equal(result.distances["distance"], make_grid().run(tmp_path / "2").distances["distance"])
    # 20 points of the truth are some way from 20 others
    assert 0.2 < grid.exact_floor(grid.cells[0]) < 2
    with pytest.raises(UsageError, match="up to the 30 samples of a model, not 31"):
        make_grid(exact_count=31)


def test_a_device_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="unknown device 'spoon'"):
        make_grid(device="spoon")


def test_wrong_cells_are_refused_before_anything_starts() -> None:
    for cell, message in (
        (Cell("Q", "sims"), "no learner"),
        (Cell("P2", "gan"), "no method"),
        (Cell("P2", "standard", 1.0), "no guidance weight"),
        (Cell("P2", "sims", kind="spiral"), "no loop"),
        (Cell("P2", "sims", world="torus"), "no world"),
    ):
        with pytest.raises(UsageError, match=message):
            Grid((cell,), runs=1, generations=2, seed=0)
    with pytest.raises(UsageError, match="at least one cell"):
        Grid((), runs=1, generations=2, seed=0)
