"""The two-dimensional recipes from end to end, with a learner of hardly any steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nomadiff.errors import UsageError
from nomadiff.plane import learner as learner_module
from nomadiff.plane.learner import LearnerConfig
from nomadiff.plane.network import Network
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.reports.markdown import significant
from nomadiff.reproduce import sims_figure_3, sims_figure_5_text
from nomadiff.reproduce.plane_recipes import cost_in_words
from nomadiff.reproduce.recipe import Result, recipe_named
from nomadiff.tables import read_table

SUMMARY = ["learner", "method", "weight", "n_s", "runs", "generations"]
SUMMARY += ["g1_mean", "g_inf_mean", "g_inf_median", "ratio", "ratio_low", "ratio_high"]


@pytest.fixture(autouse=True)
def quick_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = LearnerConfig(
        "quick", "a learner for tests", Network(), TrainingPlan(1, 512, 2e-3), TrainingPlan(1, 512, 1e-3), 64
    )
    monkeypatch.setitem(learner_module.PRESETS, "quick", quick)


def run_recipe(name: str, out: Path, **options) -> Result:
    recipe = recipe_named(name)
    return recipe.run(recipe.request(out, learners=("quick",), processes=1, **options))


def test_figure_5(tmp_path: Path) -> None:
    def run(seed: int = 1) -> Result:
        return run_recipe("sims-figure-5", tmp_path, scale="smoke", seed=seed, runs=2, generations=2)

    result = run()
    summary = read_table(tmp_path / "summary.json").rows
    assert list(summary[0])[: len(SUMMARY)] == SUMMARY
    assert [(row["method"], row["weight"], row["n_s"]) for row in summary] == [
        (method, weight, n_s) for n_s in (125, 250, 500, 1000) for method, weight in (("standard", 0.0), ("sims", 1.0))
    ]
    generations = read_table(tmp_path / "generations.json").rows
    assert len(generations) == 8 * 2 * 2
    first = [
        row["distance"] for row in generations if row["generation"] == 1 and row["n_s"] == 500 and row["weight"] == 0
    ]
    assert np.mean(first) == pytest.approx(summary[4]["g1_mean"])
    improvement = read_table(tmp_path / "improvement.json").rows
    assert [row["method"] for row in improvement] == ["standard", "sims", "neon"]
    assert improvement[0]["change"] == 0 and [row["chosen"] for row in improvement] == [False, True, True]
    written = {path.name for path in tmp_path.iterdir()}
    assert {"summary.csv", "summary.md", "figure-5-quick.png", "figure-5-quick.svg"} <= written
    assert "2 runs show that the recipe runs, nothing else" in result.text
    assert "(paper 6.69)" in result.text and "a learner for tests" in result.text
    with pytest.raises(UsageError, match=r"other settings \(seed: \d+ -> \d+\)"):
        run(seed=2)


def test_figure_5_is_compared_with_the_papers_numbers() -> None:
    def row(n_s: int, weight: float, ratio: float) -> dict:
        ends = {"ratio": ratio, "ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1, "certain": True}
        return {"method": "sims" if weight else "standard", "n_s": n_s, "weight": weight, **ends}

    near = [row(125, 0.0, 1.7), row(125, 3.0, 1.0), row(250, 0.0, 2.5), row(250, 3.0, 1.0)]
    text = sims_figure_5_text._verdict(near)
    assert "The paper's own standard ratios are within the intervals." in text
    assert "The paper's own ratios of SIMS at ω = 3 are within the intervals." in text
    far = [row(125, 0.0, 1.7), row(125, 3.0, 1.5), row(250, 0.0, 5.0), row(250, 3.0, 1.0)]
    text = sims_figure_5_text._verdict(far)
    assert "The paper's own standard ratios are outside the intervals at n_s = 250." in text
    assert "The paper's own ratios of SIMS at ω = 3 are outside the intervals at n_s = 125." in text
    assert "SIMS at ω = 3" not in sims_figure_5_text._verdict([row(125, 0.0, 1.7), row(125, 1.0, 1.0)])


def test_figure_5_with_exact_transport_prints_its_floor(tmp_path: Path) -> None:
    result = run_recipe("sims-figure-5", tmp_path, scale="smoke", seed=1, runs=2, generations=2, exact=30)
    row = result.table.rows[0]
    assert row["exact_ratio"] == pytest.approx(row["exact_g_inf_mean"] / row["exact_g1_mean"])
    assert "Between two sets of true samples it is" in result.text and "| exact ratio |" in result.text


def test_figure_3(tmp_path: Path) -> None:
    result = run_recipe("sims-figure-3", tmp_path, scale="smoke", seed=1)
    rows = read_table(tmp_path / "summary.json").rows
    assert len(rows) == 2 * 2 * 2 * 2
    bases = {row["distance"] for row in rows if row["weight_s"] == row["weight_a"] == 0}
    assert len(bases) == 1  # the base is the base in both spaces and at both rates
    advanced = [row for row in rows if (row["weight_s"], row["weight_a"]) == (0, -1)]
    for rate in sims_figure_3.RATES:  # (0, -1) is the advanced model itself, in either space
        one, other = (row["distance"] for row in advanced if row["rate"] == rate)
        assert one == pytest.approx(other, rel=1e-4)
    assert (tmp_path / "figure-3.png").exists() and (tmp_path / "figure-3.svg").exists()
    assert "Robustness" in result.text and (tmp_path / "summary.md").read_text() == result.text


def test_loop_comparison(tmp_path: Path) -> None:
    result = run_recipe("loop-comparison", tmp_path, scale="small", seed=1, runs=1, generations=2)
    rows = read_table(tmp_path / "summary.json").rows
    assert len(rows) == 2 * 7 + 3 * 5 + 2
    assert all(row["to_standard"] == 1 for row in rows if row["method"] == "standard")
    assert {row["method"] for row in rows if row["knows_provenance"]} == {"real-only", "casd-provenance"}
    assert all(row["world"] == "gaussian" for row in rows if row["kind"] != "synthetic augmentation")
    for words in (
        "**In short.**",
        "**CASD in a loop**",
        "Accumulation loop, n_s = 1000",
        "Mean and covariance do not see",
    ):
        assert words in result.text
    assert (tmp_path / "comparison-quick.svg").exists()


@pytest.mark.parametrize("name", ["sims-figure-3", "sims-figure-5", "loop-comparison"])
def test_a_plan_costs_nothing_and_wrong_names_and_sizes_are_refused(name, tmp_path: Path) -> None:
    recipe = recipe_named(name)

    def plan(**options) -> str:
        return recipe.plan(recipe.request(tmp_path, **options))

    assert "CPU hours" in plan(scale="paper") and not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no learner called 'Q'"):
        plan(learners=("Q",))
    with pytest.raises(UsageError, match="0 runs"):
        plan(runs=0)
    if "generations" in recipe.options:
        with pytest.raises(UsageError, match="at least two generations"):
            plan(generations=0)
    else:
        with pytest.raises(UsageError, match="one learner at a time"):
            plan(learners=("P", "G"))


def test_numbers_in_words() -> None:
    assert [significant(value) for value in (0.05772, 1.0, 33.21, 5123.4, float("inf"), float("nan"))] == [
        "0.0577",
        "1",
        "33.2",
        "5123",
        "diverged",
        "diverged",
    ]
    assert cost_in_words(90) == "about 90 CPU seconds"
    assert cost_in_words(600) == "about 10 CPU minutes"
    assert cost_in_words(36_000) == "about 10 CPU hours"
