"""The SIMS recipes: they run, go on, say what they need, and their reports say what the numbers say."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from factories import noise_source

from nomadiff.data.image_source import ImageSource
from nomadiff.errors import DataError, UsageError
from nomadiff.improve.settings import Improvement
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.reports.page import Report
from nomadiff.reproduce import demo, demo_improve, sims_figure_4, sims_figure_9
from nomadiff.reproduce.data_files import NeededFile
from nomadiff.reproduce.demo import demo_comparison
from nomadiff.reproduce.recipe import recipe_named
from nomadiff.reproduce.sims_settings import DIGITS_SHORT, PAPER, SMOKE
from nomadiff.reproduce.trials import Cost, Trial, scoring_seed, trial_recipe
from nomadiff.sampling.sampler import SamplerConfig
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
    assert "512 images at learning rate 5.12e-05" in plan and "32 candidates" in plan
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
    facts = {"sentence": "...", "weight": 0.8, "budget": 128, "mean": 0.1, "low": 0.0, "high": 0.2}
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
    assert any(
        "asked for weight 0.8, the tool finds a sure gain in 1 of 4 seeds and recommends keeping the base" in text
        for text in texts
    )
    assert len(report.figures) == 2 * 2 * 2 and "<svg" in report.figures[0].svg
    assert report.html()


def test_figure_9_draws_the_sets_that_its_plan_counts():
    drawn = []

    def score(make, *, sampler=None, **key):
        drawn.append(key["arm"] == "base")
        return {**key, "fd_digits": len(drawn)}

    settings, subject = {"sizes": (8, 16, 32), "steps": (3, 6), "skipped": (0, 6)}, SMOKE
    model = SimpleNamespace(nfe=lambda sampler=None: 35, config=SimpleNamespace(sampler=SamplerConfig()))
    made = SimpleNamespace(base=model, budgets=[256], make=lambda *args, **options: model)
    trial = SimpleNamespace(base=model, subject=subject, seed=10, scorer=lambda: score)
    trial.improved = lambda *args, **changes: SimpleNamespace(candidates=made)
    rows = sims_figure_9._points(trial, **settings)
    cost = sims_figure_9._cost(subject, **settings)
    assert (sum(drawn), len(drawn) - sum(drawn)) == (cost.plain, cost.guided)
    base = {row["x"]: row["fd_digits"] for row in rows if (row["panel"], row["arm"]) == ("synthetic-count", "base")}
    assert base == dict.fromkeys(settings["sizes"], 1)


def test_figure_4_ends_without_a_conclusion_where_the_reference_are_statistics():
    """A half of them cannot be chosen by: the paper's scale ended in an error once all its samples were scored."""
    model = SimpleNamespace()
    made = SimpleNamespace(base=model, budgets=[256], make=lambda *args, **options: model)
    trial = SimpleNamespace(seed=10, scorer=lambda: lambda make, **key: key)
    trial.reference = SimpleNamespace(features=None)
    trial.improved = lambda **changes: SimpleNamespace(candidates=made) if not changes else pytest.fail("concluded")
    assert [row["weight"] for row in sims_figure_4._sweep(trial, (1.0,))] == [0.0, 1.0, 1.0]


def test_scoring_noise_is_apart_from_tuning_noise():
    from nomadiff.seeding import mixed_seed

    used = {scoring_seed(seed, index) for seed in range(20) for index in range(5)}
    tuned = {mixed_seed(seed, *parts) % (1 << 31) for seed in range(20) for parts in ((2,), (4,), (5, 0), (5, 1))}
    assert len(used) == 100 and not used & tuned
    assert DIGITS_SHORT.weight == 1.0


def test_the_demos_improvement_says_what_it_was_judged_by(tmp_path, monkeypatch):
    """Its table had the comparison's meta: a thousand samples, where there were four hundred."""
    monkeypatch.setattr(demo_improve, "run_trials", lambda *_, **options: Table([], {"recipe": "demo-improve"}))
    monkeypatch.setattr(demo_improve, "metric_lines", lambda *_, **options: "")
    drawn = SimpleNamespace(sample=lambda count: noise_source("drawn", count=count).images, guidance=None)
    monkeypatch.setattr(demo_improve, "Model", SimpleNamespace(load=lambda *_, **options: drawn))
    monkeypatch.setattr(Trial, "base", drawn)
    comparison = demo_comparison(tmp_path)
    whole = Table([], {"command": "nomadiff demo", "evaluation": {"count": 1000, "detector": "digits"}})
    monkeypatch.setattr(demo, "compared", lambda _: (whole, Report("A demo")))
    assert demo.run_demo(comparison) is whole
    meta = read_table(tmp_path / "improve.json").meta
    reference = ReferenceSet(ImageSource.open("digits:reference", name="reference", synthetic=False).pixels)
    assert meta["evaluation"]["count"] == 400 and meta["evaluation"]["detector"] == "digits"
    assert meta["evaluation"]["reference_sha256"] == reference.meta["reference_sha256"]
    assert meta["command"] == comparison.command


def test_other_files_of_the_same_names_do_not_give_the_old_rows(tmp_path):
    """``--data`` is a folder of images and of imported models: what is in them is what a finished recipe depends on."""
    subject = replace(SMOKE, files=(NeededFile("images.zip", "images"), NeededFile("model", "a folder")))

    def size(trial):
        return [{"seed": trial.seed, "size": trial.data.joinpath("images.zip").stat().st_size}]

    def report(table, verdicts, trials):
        return Report(title="sizes", table=table)

    recipe = trial_recipe("sizes", "", {"smoke": (subject,)}, size, lambda subject: Cost(""), report)

    def sizes(data):
        return recipe.run(recipe.request(tmp_path / "out", scale="smoke", data=data, processes=1)).table.rows

    for name, image, weights in (("a", "1", "x"), ("same", "1", "x"), ("b", "22", "x"), ("c", "1", "y")):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "images.zip").write_text(image)
        (tmp_path / name / "model" / "weights").write_text(weights)
    assert sizes(tmp_path / "a") == sizes(tmp_path / "same") == [{"base": "short", "seed": 10, "size": 1}]
    for other, changed in (("b", "images.zip"), ("c", "model")):
        with pytest.raises(UsageError, match=rf"other settings \(files\.{changed}\): choose another folder$"):
            sizes(tmp_path / other)


@pytest.mark.parametrize("name", ["sims-table-1", "sims-figure-7", "casd-table-1", "casd-figure-3"])
def test_data_that_a_scale_does_not_read_are_refused(name, tmp_path):
    """Digits would be trained on, and taken for the images that were given."""
    recipe = recipe_named(name)
    for ask in (recipe.plan, recipe.run):
        with pytest.raises(UsageError, match="reads no files: leave --data out"):
            ask(recipe.request(tmp_path / "x", scale="smoke", data=tmp_path))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["sims-table-1", "sims-figure-4", "sims-figure-6", "sims-figure-9"])
def test_a_detector_that_is_missing_is_told_before_anything_is_trained(name, tmp_path, monkeypatch):
    def missing(*args, **options):
        raise DataError("the detector's weights cannot be fetched")

    for module in ("trials", "two_generations"):
        monkeypatch.setattr(f"nomadiff.reproduce.{module}.detector_named", missing)
    recipe = recipe_named(name)
    with pytest.raises(DataError, match="cannot be fetched"):
        recipe.run(recipe.request(tmp_path / "out", scale="smoke", seeds=(10,), processes=1, device="cpu"))
    assert not list(tmp_path.rglob("*.safetensors"))
