import pytest

from nomadiff.errors import DataError, UsageError
from nomadiff.experiments.recipes import RECIPES, describe_recipes, reproduce
from nomadiff.experiments.study import SCALES
from nomadiff.tables import read_table

CASD = [name for name in RECIPES if name.startswith("casd")]
ROWS = {
    "casd-table-1": {"dataset": {"digits"}, "method": {"dm", "sda", "casd"}, "source": {"", "close", "style"}},
    "casd-figure-2": {"m": {0, 50}, "method": {"dm", "sda", "casd"}},
    "casd-table-2": {"case": {0, 1, 2, 3}, "method": {"dm", "sda", "casd"}},
    "casd-figure-3": {"case": {0, 1, 2, 3}},
    "casd-table-3": {"method": {"dm", "casd"}, "source": {"", "close", "style"}},
}


@pytest.mark.parametrize("name", CASD)
def test_smoke(name, tmp_path):
    written = reproduce(name, tmp_path, scale="smoke", seeds=(0,))
    assert "report.html" in written and (tmp_path / "summary.md").read_text() in written
    table = read_table(tmp_path / "table.json")
    for field, values in ROWS[name].items():
        assert {row[field] for row in table.rows} == values
    assert all(row["fd_digits"] > 0 for row in table.rows)
    if name == "casd-figure-3":
        shares = read_table(tmp_path / "composition.json").rows
        # the real images are of classes 0-7 only: so is the reference they are judged by
        assert not any(row["share"] > 0.05 for row in shares if row["method"] == "real" and row["class"] in "89")
    if name == "casd-table-3":
        assert all("ssim_nearest" in row for row in table.rows)


@pytest.mark.parametrize("name", CASD)
def test_paper_scale_says_what_it_needs(name, tmp_path):
    plan = reproduce(name, tmp_path / "out", scale="paper", dry_run=True)
    assert "missing" in plan
    assert "hours on an A100" in plan
    with pytest.raises(DataError, match=r"needs .*\.zip"):
        reproduce(name, tmp_path / "out", scale="paper")
    assert not (tmp_path / "out").exists()


def test_every_recipe_is_described():
    text = describe_recipes()
    assert all(name in text for name in RECIPES)
    assert SCALES == ("smoke", "small", "paper")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="casd-table-1"):
        reproduce("casd-table-4", tmp_path)
    with pytest.raises(UsageError, match="smoke, small, paper"):
        reproduce("casd-table-1", tmp_path, scale="big")
    with pytest.raises(UsageError, match="generations"):
        reproduce("casd-table-1", tmp_path, scale="smoke", generations=3)
    for recipe in ("casd-table-1", "sims-figure-5"):
        with pytest.raises(UsageError, match="unknown device 'spoon'"):
            reproduce(recipe, tmp_path, scale="smoke", device="spoon")
