"""The SIMS recipes: they run, go on, say what they need, and their reports say what the numbers say."""

import re

import pytest

from nomadiff.errors import DataError
from nomadiff.improve.settings import Improvement
from nomadiff.reproduce import sims_figure_4
from nomadiff.reproduce.recipe import recipe_named
from nomadiff.reproduce.sims_settings import DIGITS_SHORT, PAPER
from nomadiff.reproduce.trials import scoring_seed
from nomadiff.tables import Table, read_table
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.improve import improve_files, plan_improvement

RECIPES = tuple(map(recipe_named, ("sims-figure-4", "sims-table-1", "sims-figure-9", "improve-relatives")))


def run_table_1(out, **options):
    recipe = recipe_named("sims-table-1")
    return recipe.run(recipe.request(out, scale="smoke", processes=1, device="cpu", **options)).table


@pytest.fixture(scope="module")
def table_1(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipes") / "table-1"
    return out, run_table_1(out, command="the command")


def test_table_1_has_a_row_a_model(table_1):
    out, table = table_1
    assert [row["method"] for row in table.rows] == ["base", "sims", "neon"]
    assert [row["nfe"] for row in table.rows] == [35, 70, 35]
    assert table.rows[1]["mparams"] == pytest.approx(2 * table.rows[0]["mparams"], abs=1e-3)
    for name in ("base", "seed", "fd_digits", "precision", "recall", "coverage", "gflop", "seconds_per_image"):
        assert all(name in row for row in table.rows)
    assert read_table(out / "table.json").rows == table.rows
    page = (out / "report.html").read_text()
    assert "Mparams" in page and "<span>command</span>" in page


def test_a_finished_recipe_is_only_read(table_1):
    out, table = table_1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = run_table_1(out)
    assert again.rows == table.rows
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_an_improved_model_is_a_stored_model_with_a_report(table_1, tmp_path):
    base = next((table_1[0] / "runs").iterdir()) / "base"
    settings = Improvement(
        weight=1.0, synthetic_count=64, budget=256, snapshots=1, count=64, confirmations=2, learning_rate=5e-4
    )
    held_out = HeldOut(reference="digits:reference", detector="digits")
    options = {"train": "digits:pool", "device": "cpu", "command": "nomadiff improve ..."}
    done = improve_files(base, tmp_path / "out", settings, held_out, **options)
    page = (tmp_path / "out" / "report.html").read_text()
    for said in (done.sentence.split(":")[0], "<span>nomadiff</span>", "NFE"):
        assert said in page, said
    plan = plan_improvement(base, Improvement(synthetic_count=64, budget=256), scored=True)
    assert "0.000512 Mi at learning rate 5.12e-05" in plan and "32 candidates" in plan
    assert "NFE 70; 38.3 with --train-part decoder --interval 0.05:5" in plan
    assert "the same copy with --interval 0.05:5 takes 49" in page
    (hours,) = re.findall(r"GPU hours: +(\S+) on an A100 at 30%", plan)
    parts = [float(found) for found in re.findall(r"(\S+) PFLOP", plan)]  # own samples, fine-tuning, scoring; all fp32
    assert float(hours) == pytest.approx(sum(parts) * 1e15 / (0.3 * 156e12) / 3600, rel=0.01)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_dry_run_starts_nothing_and_says_what_it_needs(recipe, tmp_path):
    for scale in recipe.scales:
        plan = recipe.plan(recipe.request(tmp_path / "x", scale=scale))
        assert "PFLOP" in plan
        assert ("edm2-img64-s" in plan and "nvlabs-fi-cdn" in plan) == (scale == "paper")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("recipe", RECIPES[:3], ids=lambda recipe: recipe.name)
def test_missing_files_are_named_before_anything_starts(recipe, tmp_path):
    with pytest.raises(DataError, match=r"edm2-img64-s, img64\.pkl.*--dry-run"):
        recipe.run(recipe.request(tmp_path / "x", scale="paper"))
    assert not (tmp_path / "x").exists()


def test_paper_subjects_are_published_networks():
    from nomadiff.interop.cards import CARDS

    assert all(subject.model in CARDS for subject in PAPER)
    assert [subject.weight for subject in PAPER] == [0.8, 1.5, 0.9, 0.7]
    budgets = [subject.improvement.budget for subject in PAPER]
    assert budgets == [40_000_000, 34_000_000, 56_000_000, 102_000_000]


def bowl(base, gain):
    """Scores whose weight 1 is better than the base by a given share."""
    rows = []
    for seed in range(4):
        for weight in (0.0, 1.0, 2.0):
            for space in ("function", "parameters")[: 2 if weight else 1]:
                distance = (10 + seed) * (1 - gain * weight * (2 - weight))
                cover = 0.5 * (1 + gain * weight)
                row = {"base": base, "space": space, "weight": weight, "budget": 128 if weight else 0, "seed": seed}
                rows.append(
                    {**row, "fd_digits": distance, "coverage": cover, "precision": 0.5, "recall": 0.5, "nfe": 35}
                )
    return rows


def test_the_report_says_what_the_numbers_say():
    table = Table([*bowl("short", 0.2), *bowl("converged", -0.3)])
    facts = {"sentence": "...", "weight": 1.0, "budget": 128, "mean": 0.1, "low": 0.0, "high": 0.2}
    verdicts = Table(
        [{"base": "short", "seed": seed, "improves": True, **facts} for seed in range(4)]
        + [{"base": "converged", "seed": seed, "improves": seed == 0, **facts} for seed in range(4)]
    )
    report = sims_figure_4._report(table, verdicts, ())
    texts = {finding.text: finding.verdict for finding in report.findings}
    (short,) = (text for text in texts if "short" in text and "SIMS at weight 1" in text)
    assert "changes fd_digits by -20% on average over 4 seeds" in short and "coverage by +20%" in short
    assert texts[short] == "good"
    (converged,) = (text for text in texts if "converged" in text and "SIMS at weight 1" in text)
    assert "by +30%" in converged and texts[converged] == "bad"
    assert any("sure gain in 1 of 4 seeds and recommends keeping the base" in text for text in texts)
    assert len(report.figures) == 2 * 2 * 2 and "<svg" in report.figures[0].svg
    assert report.html()


def test_scoring_noise_is_apart_from_tuning_noise():
    from nomadiff.seeding import mixed_seed

    used = {scoring_seed(seed, index) for seed in range(20) for index in range(5)}
    tuned = {mixed_seed(seed, *parts) % (1 << 31) for seed in range(20) for parts in ((2,), (4,), (5, 0), (5, 1))}
    assert len(used) == 100 and not used & tuned
    assert DIGITS_SHORT.weight == 1.0
