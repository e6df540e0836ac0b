"""``shift``: what it makes, that it goes on where it was stopped, and what it says."""

import dataclasses
import json
import warnings

import pytest
import torch
from factories import tiny_preset

from nomadiff.data.digits import read_digits
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, Interrupted, UsageError
from nomadiff.improve import own_samples
from nomadiff.improve.fine_tuned_copy import FineTunedCopy
from nomadiff.methods.dm import DM
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.shift import complement
from nomadiff.shift.complement import REST
from nomadiff.shift.settings import Shift
from nomadiff.shift.shift import ALL, _Task, shift
from nomadiff.training.run_folder import RunFolder, load_tensors

PRESET = tiny_preset(budget=160, learning_rate=1e-2, snapshot_every=160, ema_half_life=20)
TARGET = {"dark": 0.8}
QUICK = Shift(target=TARGET, synthetic_count=40, budget=64, weights=(-1.0, 0.5, 1.0), count=60)


class Brightness:
    """Dark or bright, split where the base splits in about half; a detector as good as any for a test."""

    name, version, dimension = "brightness", "1", 4
    class_names = ("dark", "bright")

    def __init__(self, threshold, sha256="1" * 64):
        self.threshold, self.sha256 = threshold, sha256

    def __call__(self, images):
        return images.float().reshape(len(images), 4, -1).mean(2)

    def classes(self, images):
        return self.classes_of_features(self(images))

    def classes_of_features(self, features):
        return (features.mean(1) > self.threshold).long()


class Lightness(torch.nn.Module):
    """The mean of every image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1).mean(1, keepdim=True)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    mix = SourceMix(ImageSource.open("digits:pool", name="real", synthetic=False).first(200))
    DM(PRESET).fit(mix, root / "dm", device="cpu")
    return root / "dm"


@pytest.fixture
def base(base_path):
    return Model.load(base_path, device="cpu")


@pytest.fixture(scope="module")
def classifier(base_path):
    images = Model.load(base_path, device="cpu").sample(200, seed=5)
    return Brightness(float(images.float().mean((1, 2, 3)).median()))


@pytest.fixture(scope="module")
def reference(classifier):
    images = read_digits("digits:reference").images[:120]
    # half of the reference as dark as the base draws, so that each group has its images
    shift_by = classifier.threshold - float(images.float().mean((1, 2, 3)).median())
    moved = (images.float() + shift_by).clamp(0, 255).to(torch.uint8)
    return ReferenceSet(moved, detector="pixels", classifier=classifier)


def small_shards(monkeypatch):
    monkeypatch.setattr(Model, "default_batch_size", 16)
    monkeypatch.setattr(complement, "_PROBE", 32)


def test_the_folder_becomes_a_model(base, classifier, reference, tmp_path):
    done = shift(base, tmp_path / "out", QUICK, classifier=classifier, reference=reference, device="cpu")
    model = Model.load(tmp_path / "out", device="cpu")
    assert model.sha256 == done.model.sha256 and model.guidance.weight == done.weight in (0.5, 1.0)
    assert torch.equal(model.sample(4), done.model.sample(4)) and not torch.equal(model.sample(4), base.sample(4))
    assert {entry.name for entry in (tmp_path / "out").iterdir() if entry.name[0] != "."} == {
        *("auxiliary", "base.safetensors", "guidance.json", "shift.csv", "shift.json", "sources.json"),
    }  # the own samples are gone
    (recorded,) = json.loads((tmp_path / "out" / "auxiliary" / "sources.json").read_text())
    assert recorded["kind"] == "synthetic" and recorded["count"] == 40
    dark, bright = recorded["composition"]
    assert dark["target"] == 0.8 and bright["group"] == REST and dark["complement"] < dark["base"] < 0.8
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert torch.equal(Model.load(tmp_path / "elsewhere", device="cpu").sample(4), done.model.sample(4))


def test_the_table_has_a_row_a_weight_and_group(base, classifier, reference, tmp_path):
    done = shift(base, tmp_path / "out", QUICK, classifier=classifier, reference=reference, device="cpu")
    rows = done.table.rows
    sweep, fresh = ([row for row in rows if row["noise"] == noise] for noise in ("sweep", "fresh"))
    assert [(row["weight"], row["group"]) for row in sweep] == [
        (weight, group) for weight in (-1.0, 0.0, 0.5, 1.0) for group in (ALL, "dark", REST)
    ]
    assert {row["weight"] for row in fresh} == {0.0, done.weight}
    assert len({row["seed"] for row in rows}) == 2
    for weight in (0.0, 0.5):
        everything, dark, rest = (row for row in sweep if row["weight"] == weight)
        assert dark["share"] + rest["share"] == pytest.approx(1) and dark["count"] + rest["count"] == 60
        assert dark["share_low"] <= dark["share"] <= dark["share_high"] and dark["target"] == 0.8
        assert all(name in everything for name in ("fd_pixels", "precision", "recall", "coverage"))
        assert "fd_pixels" in dark and "reference_share" in dark
    assert {row["nfe"] for row in rows if row["group"] == ALL} == {5, 10}
    images = base.sample(60, seed=sweep[0]["seed"])
    expected = float((classifier.classes(images) == 0).double().mean())
    assert next(row for row in sweep if row["weight"] == 0 and row["group"] == "dark")["share"] == expected
    # a group is scored by subsets of one size, half of what it has where it is rarest of base and target
    sizes = {group: {row["subset"] for row in rows if row["group"] == group} for group in ("dark", REST)}
    composition = {each["group"]: each for each in done.table.meta["composition"]}
    assert sizes == {g: {int(60 * min(composition[g]["base"], composition[g]["target"]) / 2)} for g in sizes}
    printed = done.text().splitlines()
    assert len(printed) == 5 and "share of dark (target 80.0%)" in printed[0] and "fd_pixels dark" in printed[0]
    assert json.loads((tmp_path / "out" / "shift.json").read_text())["meta"]["sentence"] == done.sentence


def by_formula(monkeypatch, share_of, distance=lambda weight: 10.0, fresh_share=None):
    """Replace drawing and scoring by functions of the weight."""

    def rows(self, weight, seed, noise):
        common = {"precision": 0.5, "recall": 0.5, "coverage": 0.5 + weight / 10}
        share = fresh_share if noise == "fresh" and fresh_share else share_of
        result = [{"group": ALL, "fd_pixels": distance(weight), **common}]
        for name, value, target in (("dark", share(weight), 0.8), (REST, 1 - share(weight), 0.2)):
            bounds = {"share_low": value - 0.01, "share_high": value + 0.01}
            result.append({"group": name, "target": target, "share": value, **bounds, "fd_pixels": distance(weight)})
        result = [{"weight": weight, "seed": seed, "noise": noise, **row} for row in result]
        self.table.rows += result
        return result

    monkeypatch.setattr(_Task, "_score", rows)


def test_the_smallest_weight_that_reaches_the_target(base, classifier, reference, tmp_path, monkeypatch):
    by_formula(monkeypatch, lambda weight: 0.5 + 0.25 * weight, lambda weight: 10 + weight)
    settings = dataclasses.replace(QUICK, weights=(2.0, -1.0, 1.5, 1.0, 1.25))
    done = shift(base, tmp_path / "out", settings, classifier=classifier, reference=reference, device="cpu")
    assert (done.weight, done.is_reached) == (1.25, True)
    assert done.sentence.startswith("weight 1.25: 'dark' 50.0% -> 81.2% (95 % interval 80.2% to 82.2%, target 80.0%)")
    assert "fd_pixels of 'dark' 10 -> 11.2 (+12%)" in done.sentence
    assert "of all 10 -> 11.2, where the shift itself counts" in done.sentence
    assert "coverage 0.50 -> 0.62" in done.sentence


def test_a_target_that_is_not_reached_is_said(base, classifier, reference, tmp_path, monkeypatch):
    by_formula(monkeypatch, lambda weight: 0.5 + 0.1 * weight * (2 - weight))
    settings = dataclasses.replace(QUICK, weights=(0.5, 1.0, 1.5))
    done = shift(base, tmp_path / "out", settings, classifier=classifier, reference=reference, device="cpu")
    assert (done.weight, done.is_reached) == (1.0, False)
    assert done.sentence.startswith("target not reached; weight 1 comes nearest: 'dark' 50.0% -> 60.0%")
    assert Model.load(tmp_path / "out", device="cpu").guidance.weight == 1.0


@pytest.mark.parametrize(
    ("moved", "is_reached", "begins"),
    [
        (-0.05, False, "target not reached; weight 1.5 reached it on the noise that chose it: 'dark' 45.0% -> 79.4%"),
        (0.05, True, "weight 1.5: 'dark' 55.0% -> 89.4%"),
    ],
)
def test_fresh_noise_decides_whether_it_is_reached(base, classifier, tmp_path, monkeypatch, moved, is_reached, begins):
    by_formula(monkeypatch, lambda w: 0.5 + 0.23 * w, fresh_share=lambda w: 0.5 + moved + 0.2295 * w)
    settings = dataclasses.replace(QUICK, weights=(1.0, 1.5, 2.0))
    done = shift(base, tmp_path / "out", settings, classifier=classifier, device="cpu")
    assert (done.weight, done.is_reached) == (1.5, is_reached)
    assert done.sentence.startswith(begins), done.sentence
    assert done.table.meta["best"] == {"weight": 1.5, "is_reached": is_reached}


def test_a_target_missed_in_the_sweep_and_reached_on_fresh_noise_is_reached(base, classifier, tmp_path, monkeypatch):
    by_formula(monkeypatch, lambda w: 0.5 + 0.1 * w, fresh_share=lambda w: 0.7 + 0.1 * w)
    settings = dataclasses.replace(QUICK, weights=(1.0, 1.5))
    done = shift(base, tmp_path / "out", settings, classifier=classifier, device="cpu")
    assert (done.weight, done.is_reached) == (1.5, True) and done.sentence.startswith("weight 1.5: ")


def test_down_is_a_direction_too(base, classifier, tmp_path, monkeypatch):
    by_formula(monkeypatch, lambda weight: 0.5 - 0.25 * weight)
    settings = dataclasses.replace(QUICK, target={"dark": 0.2}, weights=(1.0, 1.5))
    assert shift(base, tmp_path / "out", settings, classifier=classifier, device="cpu").weight == 1.5


def test_without_a_reference_shares_are_all(base, classifier, tmp_path):
    done = shift(base, tmp_path / "out", QUICK, classifier=classifier, device="cpu")
    assert "not measured (no --reference)" in done.sentence and "fd_pixels" not in done.table.fields
    assert len(done.text().splitlines()[0].split("share")) == 3


# going on


def comparable(folder):
    table = json.loads((folder / "shift.json").read_text())
    weights = load_tensors(folder / "auxiliary" / "model.safetensors")[0]
    facts = [table["meta"][name] for name in ("best", "sentence", "composition")]
    return (folder / "guidance.json").read_text(), table["rows"], facts, weights


def test_stopped_anywhere_it_goes_on_to_the_same_model(base, classifier, reference, tmp_path, monkeypatch, stop_after):
    small_shards(monkeypatch)
    options = {"classifier": classifier, "reference": reference, "device": "cpu"}
    shift(base, tmp_path / "whole", QUICK, **options)
    stops = [
        (own_samples, "write_images", 2),
        (RunFolder, "log", 1),
        (own_samples, "remove_tree", 1),
        (FineTunedCopy, "save", 3),
        (FineTunedCopy, "save", 4),
        (GuidanceConfig, "write", 1),
    ]
    for owner, name, calls in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, owner, name, calls)
            with pytest.raises(Interrupted, match="run the same command again"):
                shift(base, tmp_path / "broken", QUICK, **options)
        if owner is RunFolder:
            with pytest.raises(DataError, match="unfinished shift: run its command again"):
                Model.load(tmp_path / "broken", device="cpu")
    shift(base, tmp_path / "broken", QUICK, **options)
    whole, broken = comparable(tmp_path / "whole"), comparable(tmp_path / "broken")
    assert whole[:3] == broken[:3]
    assert all(torch.equal(value, broken[3][name]) for name, value in whole[3].items())


def test_a_finished_one_is_only_read_and_serves_other_weights(base, classifier, reference, tmp_path, monkeypatch):
    options = {"classifier": classifier, "reference": reference, "device": "cpu"}
    first = shift(base, tmp_path / "out", QUICK, **options)
    drawn = []
    monkeypatch.setattr(Model, "write_samples", None)
    original = Model.sample_batches

    def counted(self, count, seed=0, **more):
        drawn.append(self.guidance.weight if self.guidance else 0.0)
        return original(self, count, seed, **more)

    monkeypatch.setattr(Model, "sample_batches", counted)
    again = shift(base, tmp_path / "out", QUICK, **options)
    assert drawn == [] and (again.sentence, again.table.rows) == (first.sentence, first.table.rows)
    shift(base, tmp_path / "out", dataclasses.replace(QUICK, weights=(*QUICK.weights, 3.0)), **options)
    assert drawn[0] == 3.0


# wrong use


@pytest.mark.parametrize(
    "changes",
    [{"count": 5}, {"weights": ()}, {"weights": (-1.0, 0.0)}, {"weights": (float("nan"), 1.0)}, {"budget": 0}],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UsageError):
        Shift(**{"target": TARGET, **changes})


def test_wrong_use_is_found_before_anything_is_written(base, base_path, classifier, reference, tmp_path):
    out = tmp_path / "out"

    def fails(said, *, model=base, settings=QUICK, classifier=classifier, **more):
        with pytest.raises(UsageError, match=said):
            shift(model, out, settings, classifier=classifier, device="cpu", **more)

    fails("no class 'grey'; there are dark, bright", settings=dataclasses.replace(QUICK, target={"grey": 0.3}))
    fails("between 0 and 1", settings=dataclasses.replace(QUICK, target={"dark": 1.3}))
    fails("no classes", classifier="pixels")
    fails("no detector 'resnet'", classifier="resnet")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Sequential(Lightness(), torch.nn.Linear(1, 3))).save(tmp_path / "three.pt")
    fails("no class 'dark'; there are 0, 1, 2", classifier=str(tmp_path / "three.pt"))
    other = Brightness(1.0, sha256="2" * 64)
    fails("the same classifier", classifier=other, reference=reference)
    large = ReferenceSet(
        torch.randint(0, 255, (60, 1, 16, 16), dtype=torch.uint8), classifier=classifier, detector="pixels"
    )
    fails("the model draws 1x8x8 images, the reference has 1x16x16", reference=large)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").write_text("")
    fails("not empty and no shift")
    (out / "thesis.tex").unlink()
    shift(base, out, QUICK, classifier=classifier, device="cpu")
    fails("holds another shift .differs in target", settings=dataclasses.replace(QUICK, target={"dark": 0.7}))
    fails("classifier_sha256", classifier=other)
    with pytest.raises(UsageError, match="holds the base model itself"):
        shift(base, base_path, QUICK, classifier=classifier, device="cpu")
    with pytest.raises(UsageError, match="no single network"):
        shift(out, tmp_path / "again", QUICK, classifier=classifier, device="cpu")


def test_a_reference_that_is_the_training_set_is_refused(base, classifier, tmp_path):
    images = ImageSource.open("digits:pool", name="real", synthetic=False).first(200).images
    seen = ReferenceSet(images, detector="pixels", classifier=classifier)
    with pytest.raises(UsageError, match=r"the set the model was trained on.*--allow-train-as-reference"):
        shift(base, tmp_path / "out", QUICK, classifier=classifier, reference=seen, device="cpu")
    assert not (tmp_path / "out").exists()
