"""``--scale medium`` of the SIMS recipes: photographs from files; here digits in their place, and tiny trainings."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nomadiff.data.image_source import ImageSource
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError
from nomadiff.metrics.detectors.cifar10_resnet56 import WEIGHTS
from nomadiff.reproduce import improve_relatives, sims_figure_6
from nomadiff.reproduce.data_files import PHOTOGRAPHS, PHOTOGRAPHS_TEST, STABLE_DIFFUSION
from nomadiff.reproduce.recipe import recipe_named, reproduce
from nomadiff.reproduce.sims_settings import PHOTOS, SMOKE, Subject
from nomadiff.reproduce.trials import Trial
from nomadiff.reproduce.two_generations import Generations
from nomadiff.tables import read_table

TRIALS = ("sims-table-1", "sims-figure-4", "sims-figure-7", "sims-figure-8", "sims-figure-9", "improve-relatives")
FEW: dict[str, dict[str, Any]] = {
    "sims-figure-4": {"weights": (1.0,)},
    "sims-figure-9": {"sizes": (32,), "steps": (3,), "skipped": (0,)},
}
METHODS = {
    "sims-table-1": {"base", "sims", "neon"},
    "sims-figure-8": {"base", "shifted"},
    "improve-relatives": set(improve_relatives._SENTENCES),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the three files, in which digits play the photographs."""
    for file, spec, first, last, kind in (
        (PHOTOGRAPHS, "digits:pool", 0, 100, "real"),
        (PHOTOGRAPHS_TEST, "digits:reference", 0, 80, "real"),
        (STABLE_DIFFUSION, "digits:close", 0, 80, "synthetic"),
    ):
        source = ImageSource.open(spec, name="x", synthetic=kind == "synthetic")
        images = source.images[first:last]
        write_images(tmp_path / file.name, [images], len(images), manifest={"kind": kind})
    return tmp_path


def shortened(subject: Subject) -> Subject:
    """The subject with a tiny network, few images and the digits' classes."""
    quick = replace(
        SMOKE.improvement, synthetic_count=48, budget=128, count=40, snapshots=subject.improvement.snapshots
    )
    changes: dict[str, Any] = {"preset": "digits", "base_budget": 128, "count": 40, "detector": "digits"}
    if hasattr(subject, "target"):
        changes["target"] = (("0,1,2,3,4", 0.8),)
    return replace(subject, improvement=quick, **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", TRIALS)
def test_medium_scale_on_images_from_files(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_named(name)
    module = importlib.import_module(f"nomadiff.reproduce.{name.replace('-', '_')}")
    subjects = module.SUBJECTS if name == "sims-figure-7" else module._SUBJECTS
    monkeypatch.setitem(subjects, "medium", tuple(map(shortened, subjects["medium"])))
    if name in FEW:
        monkeypatch.setitem(module._SETTINGS, "medium", FEW[name])
    request = recipe.request(data / "out", scale="medium", data=data, seeds=(0,), processes=1, device="cpu")
    table = recipe.run(request).table
    assert read_table(data / "out" / "table.json").rows and (data / "out" / "report.html").exists()
    assert {row["base"] for row in table.rows} == {"photographs"}
    if name in METHODS:
        assert {row["method"] for row in table.rows} == METHODS[name]
    if name == "improve-relatives":
        assert "samples (sd14-20k.zip)" in (data / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", [*TRIALS, "sims-figure-6"])
def test_a_plan_says_files_gpu_hours_and_core_hours(name: str, tmp_path: Path) -> None:
    plan = reproduce(name, tmp_path / "out", scale="medium", dry_run=True)
    assert "missing  real-train-10k.zip" in plan and "missing  real-test-10k.zip" in plan
    assert ("sd14-20k.zip" in plan) == (name == "improve-relatives")
    assert "GPU hours:" in plan and "on one CPU core" in plan
    with pytest.raises(DataError, match=r"needs real-train-10k\.zip, real-test-10k\.zip"):
        reproduce(name, tmp_path / "out", scale="medium")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("few_steps")
def test_pollution_on_photographs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"preset": "digits", "budget": 128, "real_count": 40, "amounts": (8, 24), "weights": (1.0,), "count": 24}
    sizes = replace(sims_figure_6._MEDIUM, **tiny, improvement=shortened(PHOTOS).improvement, detector="digits")
    monkeypatch.setattr(sims_figure_6, "_MEDIUM", sizes)
    recipe = recipe_named("sims-figure-6")
    request = recipe.request(data / "out", scale="medium", data=data, processes=1, device="cpu")
    result = recipe.run(request)
    assert {row.get("pollution") for row in result.table.rows} == {None, 8, 24}
    assert "40 real images" in result.text


def test_a_folder_with_both_sets_gives_the_photographs_only_at_medium(data: Path) -> None:
    recipe = recipe_named("sims-figure-6")
    for name in ("cifar10-32x32-train.zip", "cifar10-32x32-test.zip"):
        (data / name).write_bytes(b"not read")
    chosen = [
        sims_figure_6._setting(recipe.request(data, scale=scale, data=data)).named[0].name
        for scale in ("small", "medium")
    ]
    assert chosen == ["cifar10-32x32-train.zip", "real-train-10k.zip"]


def test_the_classifier_of_photographs_takes_its_weights_from_the_data(data: Path) -> None:
    """A damaged file there is named: nothing is fetched in its place."""
    weights = data / WEIGHTS.url.rpartition("/")[2]
    weights.write_bytes(b"damaged")
    with pytest.raises(DataError, match=weights.name):
        _ = Trial(PHOTOS, 0, data / "out", data, "cpu").reference
    with pytest.raises(DataError, match=weights.name):
        Generations(sims_figure_6._MEDIUM, data / "out", data, "cpu").detector()


def test_without_attention_none_is_perturbed() -> None:
    (medium,), (small,) = (improve_relatives._SUBJECTS[scale] for scale in ("medium", "small"))
    left_out = set(improve_relatives._methods(small)) - set(improve_relatives._methods(medium))
    assert left_out == {"perturbed-attention"}
