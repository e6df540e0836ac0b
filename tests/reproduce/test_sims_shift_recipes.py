"""Recipes of SIMS Figures 7 and 8: they run, go on, say what they need, and their reports say what the numbers say."""

import pytest
from PIL import Image

from nomadiff.errors import DataError
from nomadiff.reproduce import sims_figure_7
from nomadiff.reproduce.recipe import recipe_named
from nomadiff.reproduce.sims_figure_7 import SUBJECTS
from nomadiff.shift.complement import REST
from nomadiff.shift.shift import ALL
from nomadiff.tables import Table, read_table

RECIPES = tuple(map(recipe_named, ("sims-figure-7", "sims-figure-8")))
FIGURE_7, FIGURE_8 = RECIPES


def run(recipe, out, **options):
    return recipe.run(recipe.request(out, scale="smoke", processes=1, device="cpu", **options)).table


@pytest.fixture(scope="module")
def figure_7(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipes") / "figure-7"
    return out, run(FIGURE_7, out, command="the command")


def test_figure_7_has_a_row_a_weight_and_group(figure_7):
    out, table = figure_7
    assert [(row["weight"], row["group"]) for row in table.rows] == [
        (weight, group) for weight in (-1.0, 0.0, 1.0) for group in (ALL, "0,1,2,3,4", REST)
    ]
    assert {row["seed"] for row in table.rows} == {10} and {row["base"] for row in table.rows} == {"half"}
    assert read_table(out / "table.json").rows == table.rows
    (verdict,) = read_table(out / "verdicts.json").rows
    assert verdict["sentence"] and verdict["weight"] == 1.0
    page = (out / "report.html").read_text()
    assert "share, %" in page and "target 90%" in page and "<span>command</span>" in page
    again = run(FIGURE_7, out)
    assert again.rows == table.rows


def test_figure_8_draws_both_from_the_same_noise(tmp_path):
    table = run(FIGURE_8, tmp_path / "out")
    assert [row["method"] for row in table.rows] == ["base"] * 3 + ["shifted"] * 3
    assert {row["noise"] for row in table.rows} == {"fresh"}
    for method in ("base", "shifted"):
        rows = {row["group"]: row for row in table.rows if row["method"] == method}
        assert rows["0,1,2,3,4"]["shown"] + rows[REST]["shown"] == rows[ALL]["shown"] == 64
        assert Image.open(tmp_path / "out" / f"{method}.png").size[0] >= 64
    assert "of 64 pictures" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_dry_run_starts_nothing_and_says_what_it_needs(recipe, tmp_path):
    for scale in ("smoke", "small", "paper"):
        plan = recipe.plan(recipe.request(tmp_path / "x", scale=scale))
        assert "PFLOP" in plan and ("fairface-gender.pt" in plan) == (scale == "paper")
    assert "140,000 own samples, 50,000,000 images of fine-tuning" in plan
    with pytest.raises(DataError, match=r"edm-ffhq-uncond-vp, ffhq-64x64\.zip, fairface-gender\.pt"):
        recipe.run(recipe.request(tmp_path / "x", scale="paper"))
    assert not (tmp_path / "x").exists()


def test_the_papers_subject_is_a_published_network():
    from nomadiff.interop.cards import CARDS

    (faces,) = SUBJECTS["paper"]
    assert faces.model in CARDS and dict(faces.target) == {"1": 0.7}
    assert {1.25, 1.5, -1.0} <= set(faces.weights)


def test_the_report_says_what_the_numbers_say():
    rows = []
    for seed in (10, 11):
        for weight in (-1.0, 0.0, 1.0, 2.0):
            share = 0.5 + 0.1 * weight
            for group, value in ((ALL, None), ("low", share), (REST, 1 - share)):
                row = {"base": "half", "weight": weight, "seed": seed, "group": group, "coverage": 0.9}
                row["fd_digits"] = None if weight < 0 else 8 + seed - 10 + (weight - 1) ** 2
                rows.append(row if value is None else {**row, "share": value, "target": 0.7})
    verdicts = Table([{"base": "half", "weight": weight, "is_reached": weight > 1} for weight in (2.0, 1.0)])
    report = sims_figure_7._report(Table(rows), verdicts, ())
    texts = [finding.text for finding in report.findings]
    assert any("40.0% at -1, 50.0% at 0, 60.0% at 1, 70.0% at 2" in text for text in texts)
    assert any("fd_digits of “low”: 9.5 at the base, least 8.5 at weight 1" in text for text in texts)
    assert any("reached in 1 of 2 seeds, at weights 2, 1" in text for text in texts)
    assert len(report.figures) == 2 and report.html()
