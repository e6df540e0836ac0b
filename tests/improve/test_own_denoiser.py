"""``improve`` and ``shift`` of a denoiser of a user's own: a copy of it is trained, stored, and found again by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import own_denoisers as own
import pytest
import torch
from factories import noise_source

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, Interrupted, NomadiffError, UsageError
from nomadiff.improve import own_samples
from nomadiff.improve.fine_tuned_copy import FineTunedCopy
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.models.dry_run import plan_training
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.shift.settings import Shift
from nomadiff.shift.shift import shift
from nomadiff.training.run_folder import RunFolder, load_tensors, save_tensors

SHAPE = (1, 8, 8)
QUICK = Improvement(weight=1.0, synthetic_count=32, budget=128, learning_rate=1e-2, snapshots=2)
FEW = SamplerConfig(steps=3)


class Brightness:
    """Dark or bright."""

    name, version, dimension, sha256 = "brightness", "1", 4, "1" * 64
    class_names = ("dark", "bright")

    def __call__(self, images):
        return images.float().reshape(len(images), 4, -1).mean(2)

    def classes(self, images):
        return self.classes_of_features(self(images))

    def classes_of_features(self, features):
        return (features.mean(1) > 127.5).long()


def model_of(kind=own.Small, classes=0, **settings):
    torch.manual_seed(0)
    denoiser = kind(**settings, **({"classes": classes} if classes else {}))
    if classes:
        settings["classes"] = classes
    return Model.from_denoiser(denoiser, shape=SHAPE, classes=classes, settings=settings, device="cpu")


@pytest.mark.parametrize("settings", [{"width": 5}, {"classes": 3}])
@pytest.mark.parametrize(("space", "nfe"), [("function", 70), ("parameters", 35)])
def test_a_fresh_process_draws_what_this_one_draws(settings, space, nfe, tmp_path):
    base = model_of(**settings)
    done = improve(base, tmp_path / "out", dataclasses.replace(QUICK, space=space), device="cpu")
    assert done.model.nfe() == nfe
    images = done.model.sample(6, seed=3, sampler=FEW)
    assert not torch.equal(images, base.sample(6, seed=3, sampler=FEW))
    words = ["sample", str(tmp_path / "out"), "--count", "6", "--seed", "3", "--steps", "3", "--device", "cpu"]
    words += ["--out", str(tmp_path / "drawn"), "--plugin", "own_denoisers"]
    command = [sys.executable, "-m", "nomadiff", *words]
    done_there = subprocess.run(command, cwd=Path(own.__file__).parent, capture_output=True, text=True)
    assert done_there.returncode == 0, done_there.stderr
    drawn = ImageSource.open(tmp_path / "drawn", name="drawn", synthetic=True)
    assert int((drawn.images.int() - images.int()).abs().max()) <= 1
    refused = [*command[:-4], "--out", str(tmp_path / "other")]
    told = subprocess.run(refused, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 1 and "--plugin own_denoisers" in told.stderr and told.stderr.count("\n") == 1


def test_the_base_is_stored_as_what_it_is(tmp_path):
    base = model_of(width=5)
    improve(base, tmp_path / "out", QUICK, device="cpu")
    stored = Model.load(tmp_path / "out" / "base.safetensors", device="cpu")
    assert stored.recipe is None and stored.known == base.known
    assert torch.equal(stored.sample(3, sampler=FEW), base.sample(3, sampler=FEW))
    copy = Model.load(tmp_path / "out" / "auxiliary", device="cpu")
    assert copy.config.network.architecture == "own_denoisers:Small" and copy.config.training.budget == 128
    again = improve(stored, tmp_path / "again", QUICK, device="cpu")  # what was stored can be improved in turn
    assert again.model.nfe() == 70


def test_it_starts_at_the_base_and_learns(tmp_path):
    base = model_of()
    improve(base, tmp_path / "still", dataclasses.replace(QUICK, learning_rate=1e-12), device="cpu")
    improve(base, tmp_path / "moved", QUICK, device="cpu")
    start = base.denoiser.state_dict()
    still, moved = (load_tensors(tmp_path / name / "auxiliary" / "model.safetensors")[0] for name in ("still", "moved"))
    assert all(torch.allclose(value, start[name], atol=1e-6) for name, value in still.items())
    assert any(not torch.allclose(value, start[name], atol=1e-4) for name, value in moved.items())


def stopped_runs(run, whole, broken, stops, monkeypatch, stop_after):
    run(whole)
    for owner, name, calls in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, owner, name, calls)
            with pytest.raises(Interrupted, match="run the same command again"):
                run(broken)
    run(broken)
    assert (whole / "guidance.json").read_text() == (broken / "guidance.json").read_text()
    assert Model.load(whole, device="cpu").sha256 == Model.load(broken, device="cpu").sha256


STOPS = [
    (own_samples, "write_images", 1),
    (RunFolder, "log", 1),
    (own_samples, "remove_tree", 1),
    (GuidanceConfig, "write", 1),
]


def test_stopped_anywhere_it_goes_on_to_the_same_model(tmp_path, monkeypatch, stop_after):
    """The denoiser is made anew each time, as a script that is run again makes it."""
    folders = tmp_path / "whole", tmp_path / "broken"
    stopped_runs(lambda out: improve(model_of(), out, QUICK, device="cpu"), *folders, STOPS, monkeypatch, stop_after)
    with pytest.raises(UsageError, match="holds another improvement"):
        torch.manual_seed(1)
        improve(Model.from_denoiser(own.Small(), shape=SHAPE), folders[0], QUICK, device="cpu")


def test_a_shift_of_it_goes_on_too(tmp_path, monkeypatch, stop_after):
    settings = Shift(
        target={"dark": 0.97}, synthetic_count=32, budget=64, learning_rate=1e-2, weights=(0.5, 1.0), count=40
    )

    def run(out):
        shift(model_of(), out, settings, classifier=Brightness(), device="cpu")

    stops = [*STOPS[:-1], (FineTunedCopy, "save", 3), STOPS[-1]]
    stopped_runs(run, tmp_path / "whole", tmp_path / "broken", stops, monkeypatch, stop_after)
    assert Model.load(tmp_path / "whole", device="cpu").guidance.weight in (0.5, 1.0)


def inside_a_function():
    class Hidden(own.Small):
        pass

    return Hidden()


def scaled():
    denoiser = own.Scaled()
    denoiser.scale = 0.5
    return denoiser


@pytest.mark.parametrize("verb", ["improve", "shift"])
@pytest.mark.parametrize(
    ("make", "settings", "told"),
    [
        (inside_a_function, None, "define it at the top of a module"),
        (lambda: own.NeedsWidth(4), None, "needs the setting width.*settings="),
        (lambda: own.Small(9), None, r"has shape \(9.*settings="),
        (scaled, None, "gives other estimates.*outside weights"),
        (own.Detached, None, "depend on no parameter"),
    ],
)
def test_what_cannot_be_copied_says_what_is_missing_and_writes_nothing(verb, make, settings, told, tmp_path):
    model = Model.from_denoiser(make(), shape=SHAPE, settings=settings)
    assert model.sample(2, sampler=FEW).shape == (2, *SHAPE)  # to draw from it needs none of that
    with pytest.raises(UsageError, match=rf"^{verb} [^\n]*{told}[^\n]*$"):
        if verb == "improve":
            improve(model, tmp_path / "out", QUICK, device="cpu")
        else:
            shift(model, tmp_path / "out", Shift(target={"dark": 0.5}), classifier=Brightness(), device="cpu")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["budget", "learning_rate", "synthetic_count"])
def test_what_no_recipe_says_is_asked_for(absent, tmp_path):
    with pytest.raises(UsageError, match="^[^\n]*--" + absent.replace("_", "-")):
        improve(model_of(), tmp_path / "out", dataclasses.replace(QUICK, **{absent: None}), device="cpu")
    assert not any(tmp_path.iterdir())


def test_settings_that_do_not_fit_are_refused_at_once():
    with pytest.raises(UsageError, match="takes no setting depth"):
        Model.from_denoiser(own.Small(), shape=SHAPE, settings={"depth": 3})


# a method trains one from nothing


SMALL = {"budget": 96, "batch": 32, "warmup": 32}


@pytest.mark.parametrize("method", [DM, CASD])
def test_a_method_trains_it_from_nothing(method, tmp_path):
    mix = SourceMix(noise_source("real", count=32), [noise_source("a", 1, count=32), noise_source("b", 2, count=32)])
    model = method(own.OfSources, **SMALL).fit(mix, tmp_path / "run", device="cpu")
    assert torch.equal(Model.load(tmp_path / "run", device="cpu").sample(3), model.sample(3))
    assert improve(model, tmp_path / "better", Improvement(weight=1, budget=32), device="cpu").model.nfe() == 70
    assert "own_denoisers:OfSources" in plan_training(model.config)


def test_a_method_needs_the_labels_that_it_gives(tmp_path):
    mix = SourceMix(noise_source("real", count=32), [noise_source("a", 1, count=32)])
    with pytest.raises(UsageError, match="Small knows no source: its forward takes none"):
        CASD(own.Small, **SMALL).fit(mix, tmp_path / "run", device="cpu")
    with pytest.raises(NomadiffError, match="ignores its source label"):
        CASD(own.Deaf, **SMALL).fit(mix, tmp_path / "other", device="cpu")


# what a file may say


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network": None}, "name no class"),
        ({"drawn_shape": [1, 9, 9]}, "draws another shape"),
        ({"drawn_shape": [1, 8]}, "drawn_shape"),
        ({"sources": 2_000_000}, "cannot be built"),
        ({"classes": -1}, "cannot be built"),
        ({"architecture": "os:system"}, "it must be an nn.Module class"),
        ({"architecture": "absent_parts:Mine"}, "--plugin absent_parts"),
        ({"architecture": "nomadiff.denoiser:EDMDenoiser"}, "it must be an nn.Module class"),
        ({"architecture": "ddpmpp"}, "name no class"),
        ({"settings": '{"width": 6}'}, "do not fit"),
    ],
)
def test_facts_that_cannot_be_are_refused(changes, told, tmp_path):
    improve(model_of(), tmp_path / "out", QUICK, device="cpu")
    file = tmp_path / "out" / "base.safetensors"
    tensors, metadata = load_tensors(file)
    facts = metadata["denoiser"]
    inner = {name: value for name, value in changes.items() if name in ("architecture", "settings")}
    facts |= {name: value for name, value in changes.items() if name not in inner}
    if inner:
        facts["network"] |= inner
    save_tensors(file, tensors, metadata)
    with pytest.raises((DataError, UsageError), match=rf"^[^\n]*{told}[^\n]*$"):
        Model.load(file, device="cpu")
