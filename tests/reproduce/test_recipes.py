import importlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json
from nomadiff.reproduce.recipe import RECIPES, describe_recipes, recipe_named, reproduce
from nomadiff.reproduce.study import jobs_from, run_study
from nomadiff.studies.work import study_status
from nomadiff.tables import read_table

CASD = [name for name in RECIPES if name.startswith("casd")]
ROWS = {
    "casd-table-1": {"dataset": {"digits"}, "method": {"dm", "sda", "casd"}, "source": {"", "close", "style"}},
    "casd-figure-2": {"m": {0, 50}, "method": {"dm", "sda", "casd"}},
    "casd-table-2": {"case": {0, 1, 2, 3}, "method": {"dm", "sda", "casd"}},
    "casd-figure-3": {"case": {0, 1, 2, 3}},
    "casd-table-3": {"method": {"dm", "casd"}, "source": {"", "close", "style"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASD)
def test_smoke(name, tmp_path):
    budget = None if name == "casd-table-1" else 512  # one of them as it is; the others differ in their arms
    written = reproduce(name, tmp_path, scale="smoke", seeds=(0,), budget=budget)
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
    assert "GPU hours:" in plan and "on an A100" in plan
    with pytest.raises(DataError, match=r"needs .*\.zip"):
        reproduce(name, tmp_path / "out", scale="paper")
    assert not (tmp_path / "out").exists()


MAKES_ITS_OWN = ("casd-table-1", "casd-figure-2")


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", CASD)
def test_medium_scale_on_images_from_files(name, tmp_path):
    """Photographs, images of real generators, a generator of the study's own; here noise and tiny trainings."""
    plan = reproduce(name, tmp_path / "out", scale="medium", dry_run=True)
    assert "missing" in plan and "on one CPU core" in plan and ("1 generators" in plan) == (name in MAKES_ITS_OWN)
    with pytest.raises(DataError, match=r"needs .*\.zip"):
        reproduce(name, tmp_path / "out", scale="medium")
    request = recipe_named(name).request(tmp_path / "out", scale="medium", data=tmp_path, seeds=(0,))
    module = importlib.import_module(f"nomadiff.reproduce.{name.replace('-', '_')}")
    study = shortened(module.study(request))
    for index, file in enumerate(study.files):
        generator = torch.Generator().manual_seed(index)
        images = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
        kind = "synthetic" if file.name.startswith("sd") else "real"
        write_images(tmp_path / file.name, [images], 60, labels=torch.arange(60) % 10, manifest={"kind": kind})
    run_study(name, study, request)
    table = read_table(tmp_path / "out" / "table.json")
    assert {row["method"] for row in table.rows} == {"dm", "sda", "casd"}
    assert all(row["fd_pixels"] > 0 for row in table.rows)
    states = study_status(tmp_path / "out")
    assert {row["state"] for row in states} == {"done"}
    assert {row["images"] for row in states if row["of"]} == {32}
    made = [row["job"] for row in states if row["job"].startswith("source-")]
    assert made == (["source-close"] if name in MAKES_ITS_OWN else [])
    settings = read_json(tmp_path / "out" / "jobs" / "study.json")
    others = jobs_from({key: settings[key] for key in ("name", "request")}, tmp_path / "out")
    assert {job.name for job in others} == {row["job"] for row in states}  # as another machine makes them
    for wrong in ({}, {"name": name, "request": 3}, {"name": "none", "request": {}}):
        with pytest.raises(DataError, match="not the settings of a study"):
            jobs_from(wrong, tmp_path / "out")


@pytest.mark.usefixtures("few_steps")
def test_without_stable_diffusion_each_case_has_a_model_of_its_classes(tmp_path):
    """CASD's cases 1 to 3 as the paper makes them."""
    for name, index in (("cifar10-32x32-train.zip", 0), ("cifar10-32x32-test.zip", 1)):
        images = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        write_images(tmp_path / name, [images], 60, labels=torch.arange(60) % 10, manifest={"kind": "real"})
    assert "3 generators" in reproduce("casd-table-2", tmp_path / "out", scale="medium", data=tmp_path, dry_run=True)
    request = recipe_named("casd-table-2").request(tmp_path / "out", scale="medium", data=tmp_path, seeds=(0,))
    study = shortened(importlib.import_module("nomadiff.reproduce.casd_table_2").study(request))
    assert [arm.mix.real_classes for arm in study.generators] == ["0-9", "2-9", "2-7"]
    run_study("casd-table-2", study, request)
    assert read_json(tmp_path / "out" / "sources" / "case3" / "sources.json")[0]["count"] == 36  # of six classes
    rows = read_table(tmp_path / "out" / "table.json").rows
    assert {(row["case"], row["source"]) for row in rows} == {(0, ""), (1, "case1"), (2, "case2"), (3, "case3")}


@pytest.mark.parametrize("name", MAKES_ITS_OWN)
def test_what_does_not_need_a_generator_is_checked_before_it_is_trained(name, tmp_path):
    request = recipe_named(name).request(tmp_path / "out", scale="medium", data=tmp_path, seeds=(0,))
    module = importlib.import_module(f"nomadiff.reproduce.{name.replace('-', '_')}")
    study = shortened(module.study(request))
    for index, file in enumerate(study.files):
        images = torch.full((60, 3, 8, 8), index, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(60)
        write_images(tmp_path / file.name, [images], 60, labels=torch.arange(60) % 10, manifest={"kind": "real"})
    cells = [replace(cell, comparison=replace(cell.comparison, detector="absent")) for cell in study.cells]
    with pytest.raises(UsageError, match="absent"):
        run_study(name, replace(study, cells=[each for each in cells if "sda" in each.comparison.methods]), request)
    assert not (tmp_path / "out").exists()


def shortened(study):
    """The study with tiny networks, data and sample sets."""
    short = {"preset": "digits", "changes": {"budget": 32, "batch": 16, "warmup": 0}, "count": 20}

    def few(mix):
        synthetic, real = mix.synthetic_subset and "first:20", mix.real_subset and "first:20"
        return replace(mix, synthetic_subset=synthetic, real_subset="each:2" if mix.real_classes else real)

    cells = [
        replace(
            cell,
            comparison=replace(cell.comparison, **short, mix=few(cell.comparison.mix), detector="pixels", workers=1),
        )
        for cell in study.cells
    ]
    return replace(study, cells=cells, generators=[replace(arm, **short) for arm in study.generators])


TWO_DIMENSIONAL = ("sims-figure-3", "sims-figure-5", "loop-comparison")


def test_every_recipe_is_described_with_its_scales():
    lines = describe_recipes().splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    for name, line in zip(RECIPES, lines):
        recipe = recipe_named(name)
        assert recipe.name == name and line.endswith(f"[{', '.join(recipe.scales)}]")
        assert recipe.description in line and recipe.scales[:2] == ("smoke", "small")


@pytest.mark.parametrize("name", RECIPES)
def test_a_scale_or_option_that_a_recipe_lacks_is_refused_in_one_line(name, tmp_path):
    recipe = recipe_named(name)
    for scale in {"smoke", "small", "medium", "paper", "huge"} - set(recipe.scales):
        with pytest.raises(UsageError) as refused:
            reproduce(name, tmp_path / "out", scale=scale, dry_run=True)
        assert str(refused.value) == f"{name} has no scale '{scale}': choose one of {', '.join(recipe.scales)}"
    given = {"seeds": (0,), "data": tmp_path, "generations": 3, "runs": 2, "learners": ("P",), "exact": 10, "seed": 1}
    for option in given.keys() - set(recipe.options):
        with pytest.raises(UsageError, match=f"^{name} does not take {option}; it takes "):
            reproduce(name, tmp_path / "out", dry_run=True, **{option: given[option]})
    if "processes" in recipe.options:
        with pytest.raises(UsageError, match="processes must be at least 1, got -1"):
            reproduce(name, tmp_path / "out", dry_run=True, processes=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", TWO_DIMENSIONAL)
def test_two_dimensional_recipes_have_no_photographs(name, tmp_path):
    with pytest.raises(UsageError, match=f"{name} has no scale 'medium': choose one of smoke, small, paper"):
        reproduce(name, tmp_path, scale="medium")
    with pytest.raises(UsageError, match=f"{name} does not take data"):
        reproduce(name, tmp_path, data=tmp_path)


def test_one_recipe_does_not_import_the_others():
    program = (
        "import sys; from nomadiff.reproduce.recipe import recipe_named; recipe_named('casd-table-1'); "
        "print([name for name in sys.modules if 'reproduce.sims' in name or 'reproduce.loop' in name])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_all_seeds_that_are_asked_for_are_taken(scale, tmp_path):
    one, two = (
        reproduce("casd-table-3", tmp_path / "out", scale=scale, seeds=seeds, dry_run=True) for seeds in ((0,), (0, 1))
    )
    models = [int(plan.partition("models:")[2].split()[0]) for plan in (one, two)]
    assert models[1] == 2 * models[0]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="casd-table-1"):
        reproduce("casd-table-4", tmp_path)
    for recipe in ("casd-table-1", "sims-figure-5"):
        with pytest.raises(UsageError, match="unknown device 'spoon'"):
            reproduce(recipe, tmp_path, scale="smoke", device="spoon")
