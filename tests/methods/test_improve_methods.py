"""SIMS and its relatives as algorithms: images in, a model out, and the effect of each."""

import dataclasses
import os
import signal

import pytest
import torch
from factories import tiny_preset

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.improve.distillation import distil
from nomadiff.improve.settings import Improvement
from nomadiff.methods.autoguidance import Autoguidance
from nomadiff.methods.casd import CASD
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided, train_discriminator
from nomadiff.methods.dm import DM
from nomadiff.methods.registry import method_named
from nomadiff.methods.sims import SIMS, Neon
from nomadiff.methods.source_guidance import SourceGuided, with_source_labels
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.training.fitting import Fitting, fit
from nomadiff.training.loop import _Training
from nomadiff.training.run_folder import RunFolder, load_tensors

PRESET = tiny_preset(budget=128, learning_rate=1e-2, snapshot_every=48, ema_half_life=20)
SHORT = Improvement(weight=0.5, snapshots=1, budget=32, synthetic_count=20)
FIT = Fitting(budget=64, batch=16, learning_rate=3e-3, ema_half_life=0, save_every=16)


def source(name, seed, low=0, high=256, count=40, labels=True):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(low, high, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSource(name, images, torch.arange(count) % 3 if labels else None, {"name": name})


@pytest.fixture(scope="module")
def mix():
    return SourceMix(source("real", 0), [source("loop", 1)])


METHODS = {
    "sims": lambda: SIMS(PRESET, improvement=SHORT),
    "neon": lambda: Neon(PRESET, improvement=SHORT),
    "source-guidance": lambda: SourceGuided(PRESET, improvement=SHORT),
    "autoguidance": lambda: Autoguidance(PRESET, weight=0.5),
    "discriminator-guidance": lambda: DiscriminatorGuided(PRESET, weight=0.5, discriminator=FIT, synthetic_count=20),
    "sda+sims": lambda: SIMS(PRESET, base="sda", improvement=SHORT),
    "casd+neon": lambda: Neon(PRESET, base="casd", improvement=SHORT),
    "casd+source-guidance": lambda: SourceGuided(PRESET, base="casd", improvement=SHORT),
    "casd+autoguidance": lambda: Autoguidance(PRESET, base="casd", weight=0.5),
}
KINDS = {
    "sims": ("extrapolation", 10),
    "neon": ("merge", 5),
    "source-guidance": ("source", 10),
    "autoguidance": ("extrapolation", 10),
    "discriminator-guidance": ("discriminator", 5),
    "sda+sims": ("extrapolation", 10),
    "casd+neon": ("merge", 5),
    "casd+source-guidance": ("source", 10),
    "casd+autoguidance": ("extrapolation", 10),
}


@pytest.fixture(scope="module")
def fitted_all(mix, tmp_path_factory):
    """The folder of a method that was never interrupted."""
    place = tmp_path_factory.mktemp("methods")

    def folder(name):
        METHODS[name]().fit(mix, place / name, device="cpu")
        return place / name

    return folder


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, fitted_all):
    out = fitted_all(request.param)
    return request.param, Model.load(out, device="cpu"), out


def test_images_in_model_out(fitted):
    name, model, out = fitted
    assert (model.guidance.kind, model.nfe()) == KINDS[name]
    assert model.config.method == name == model.manifest(1, 0)["generator"]
    assert model.guidance.weight == 0.5
    images = model.sample(4)
    assert torch.equal(Model.load(out, device="cpu").sample(4), images)
    assert not torch.equal(images, Model.load(out / "base", device="cpu").sample(4))
    base = Model.load(out / "base", device="cpu").config
    assert base.method == (name.rpartition("+")[0] or "dm")
    assert base.source_names == (("real",) if base.method == "dm" else ("real", "loop"))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["sims", "autoguidance", "casd+source-guidance"])
def test_killed_while_it_writes_it_goes_on_to_the_same_weights(name, after, mix, tmp_path, fitted_all, killed_at_write):
    out, kills = tmp_path / "killed", 0
    while killed_at_write(kills + 1, after, lambda: METHODS[name]().fit(mix, out, device="cpu")):
        kills += 1
        assert kills < 40
    assert kills > 2
    whole = fitted_all(name)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors") if "state" not in path.parts)
    assert len(files) > 2
    assert all((out / file).read_bytes() == (whole / file).read_bytes() for file in files)


TRAIN = ["train", "--real", "digits:pool", "--real-subset", "first:40", "--preset", "digits", "--budget", "512"]
TRAIN += ["--batch", "64", "--warmup", "64", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_train_goes_on_after_a_signal_in_either_training(tmp_path, monkeypatch, capsys):
    """Whatever the command line leaves in the folder when it is stopped is no obstacle to the second training."""
    command = [*TRAIN, "--method", "sims", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert f"model:   {tmp_path / 'whole'}" in capsys.readouterr().out
    step, count = _Training._step, [0]

    def stopping(self, meter):
        step(self, meter)
        count[0] += 1
        if count[0] in (3, 8):  # of seven steps of the base, and two of the copy
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(_Training, "_step", stopping)
    more = ["--snapshot-every", "64"]
    assert main([*command, str(tmp_path / "broken"), *more]) == 128 + signal.SIGTERM
    while main([*command, str(tmp_path / "broken"), *more]) == 128 + signal.SIGTERM:
        assert count[0] < 20
    for part in ("base", "auxiliary"):
        files = [tmp_path / name / part / "model.safetensors" for name in ("whole", "broken")]
        states = [load_tensors(file)[0] for file in files]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert Model.load(tmp_path / "broken", device="cpu").config.method == "sims"
    assert main([*TRAIN, "--method", "casd+sims", "--dry-run", "--out", str(tmp_path / "x")]) == 2
    assert "casd+sims tells real images from synthetic ones" in capsys.readouterr().err
    assert main([*TRAIN, "--method", "neon", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    assert "448 images trained the base and 64 what guides it" in capsys.readouterr().out


def test_both_trainings_share_the_budget(fitted):
    name, _, out = fitted
    runs = [RunFolder(path.parent) for path in out.rglob("config.json")]
    seen = sum(run.read_log()[-1]["images_seen"] for run in runs)
    assert seen == (64 if name == "discriminator-guidance" else 128)  # a discriminator's training keeps no log
    assert METHODS[name]().control == (name.rpartition("+")[0] or "dm")


def test_a_finished_one_is_only_read(fitted, mix, monkeypatch):
    name, model, out = fitted
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    monkeypatch.setattr("nomadiff.improve.own_samples.OwnSamples.draw", lambda *a: pytest.fail("drew again"))
    again = METHODS[name]().fit(mix, out, device="cpu")
    assert again.sha256 == model.sha256 and again.config.method == name
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == weights


def test_neon_takes_a_tenth_of_the_learning_rate(fitted):
    name, _, out = fitted
    rate = {"sims": 1e-2, "neon": 1e-3, "casd+neon": 1e-3}.get(name)
    if rate is not None:
        assert RunFolder(out / "auxiliary").config().training.learning_rate == pytest.approx(rate)


def test_the_folder_can_be_moved(mix, tmp_path):
    SIMS(PRESET, improvement=SHORT).fit(mix, tmp_path / "a", device="cpu")
    assert not (tmp_path / "a" / "base.safetensors").exists()  # the base is there already
    (tmp_path / "a").rename(tmp_path / "b")
    assert Model.load(tmp_path / "b", device="cpu").sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["sims", "casd+source-guidance", "autoguidance"])
def test_a_guided_model_is_not_prolonged_and_left_as_it_is(name, mix, tmp_path):
    method = METHODS[name]()
    method.fit(mix, tmp_path / "m", device="cpu")
    files = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    longer = METHODS[name]()
    longer.training = dataclasses.replace(longer.training, budget=256)
    with pytest.raises(UsageError, match="choose another --out"):
        longer.fit(mix, tmp_path / "m", device="cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("name", ["sims", "neon", "source-guidance", "autoguidance"])
def test_a_budget_too_small_for_two_trainings_is_said(name, mix):
    with pytest.raises(UsageError, match="larger --budget"):
        method_named(name)(PRESET, budget=16).recipe(mix)


# source guidance


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("architecture", ["ddpmpp", "adm"])
def test_one_more_source_label_begins_as_the_real_one(architecture, classes, mix):
    network = NetworkConfig(architecture, 8, 1, 8, (1, 2), 1, (4,), channels_per_head=8)
    recipe = CASD(dataclasses.replace(PRESET, network=network), class_labels=bool(classes)).recipe(mix)
    torch.manual_seed(1)
    base = recipe.build_denoiser().eval()
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    more = dataclasses.replace(
        recipe, sources=3, source_names=("real", "loop", "own"), shares=(0.3, 0.2, 0.5), class_counts=()
    )
    denoiser = more.build_denoiser().eval()
    denoiser.load_state_dict(with_source_labels(base.state_dict(), more, 2))
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0, 30.0])
    condition = {"class_label": torch.tensor([0, 1, 2, 0])} if classes else {}
    for label, before in ((0, 0), (1, 1), (2, 0)):
        torch.testing.assert_close(
            denoiser(x, sigma, source=label, **condition), base(x, sigma, source=before, **condition)
        )


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("architecture", ["ddpmpp", "adm"])
def test_source_labels_begin_as_nothing(architecture, classes, mix):
    network = NetworkConfig(architecture, 8, 1, 8, (1, 2), 1, (4,), channels_per_head=8)
    recipe = DM(dataclasses.replace(PRESET, network=network), class_labels=bool(classes)).recipe(mix)
    torch.manual_seed(1)
    base = recipe.build_denoiser().eval()
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    labelled = dataclasses.replace(recipe, sources=2)
    denoiser = labelled.build_denoiser().eval()
    denoiser.load_state_dict(with_source_labels(base.state_dict(), labelled))
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0, 30.0])
    condition = {"class_label": torch.tensor([0, 1, 2, 0])} if classes else {}
    for label in (0, 1):
        torch.testing.assert_close(denoiser(x, sigma, source=label, **condition), base(x, sigma, **condition))


def test_the_labelled_copy_knows_own_from_real(fitted):
    name, model, out = fitted
    names = {"source-guidance": ("real", "own"), "casd+source-guidance": ("real", "loop", "own")}.get(name)
    if names is None:
        return
    copy = Model.load(out / "labelled", device="cpu")
    assert copy.config.source_names == names and model.guidance.source == len(names) - 1
    assert copy.config.shares[-1] == 0.5
    assert not torch.equal(copy.sample(3), copy.sample(3, source="own"))
    with pytest.raises(UsageError, match="cannot draw source"):
        model.sample(3, source=1)


# discriminator


@pytest.mark.parametrize("change", [{"learning_rate": 1e-4}, {"seed": 5}, {"batch": 32}])
def test_a_discriminator_that_was_trained_otherwise_is_refused(mix, tmp_path, change):
    """Its settings were read once: asked for with others, the folder gave the old one."""

    def made(weight=0.5, count=20, **options):
        method = DiscriminatorGuided(
            PRESET, weight=weight, discriminator=dataclasses.replace(FIT, **options), synthetic_count=count
        )
        return method.fit(mix, tmp_path / "out", device="cpu")

    before = made().parts[1].sha256
    assert made(weight=1.0, save_every=32).parts[1].sha256 == before
    told = ", ".join(f"{name}: {getattr(FIT, name)} -> {value}" for name, value in change.items())
    with pytest.raises(UsageError, match=rf"another discriminator \(differs in {told}\)"):
        made(**change)
    with pytest.raises(UsageError, match="synthetic_count: 20 -> 30"):
        made(count=30)


def test_a_discriminator_learns_to_tell_bright_from_dark(mix, tmp_path):
    base = DM(PRESET, class_labels=True).fit(mix, tmp_path / "base", device="cpu")
    both = SourceMix(source("real", 3, low=160), [source("own", 4, high=96)], real_fraction=0.5)
    options = dataclasses.replace(FIT, budget=1600, learning_rate=1e-2)
    train_discriminator(base, both, tmp_path / "d.safetensors", options)
    judge = Discriminator.load(tmp_path / "d.safetensors")
    sigma = torch.full((40,), 0.3)
    bright, dark = (images.images.float() / 127.5 - 1 for images in (source("a", 5, low=160), source("b", 6, high=96)))
    logits = [judge(x + 0.3 * torch.randn_like(x), sigma, class_label=1) for x in (bright, dark)]
    assert (logits[0] > 0).float().mean() > 0.9 and (logits[1] < 0).float().mean() > 0.9
    assert len(judge.encoder.dec) == 0 and judge.sha256


# distillation


@pytest.fixture(scope="module")
def guided(mix, tmp_path_factory):
    return SIMS(PRESET, improvement=dataclasses.replace(SHORT, weight=2.0)).fit(
        mix, tmp_path_factory.mktemp("d") / "sims", device="cpu"
    )


def test_the_student_comes_near_the_teacher_at_the_cost_of_one(guided, mix, tmp_path):
    options = dataclasses.replace(FIT, budget=1200, learning_rate=2e-3)
    student = distil(guided, mix.sources[0], tmp_path / "student", options)
    assert (student.config.method, student.nfe(), guided.nfe()) == ("distilled", 5, 10)
    generator = torch.Generator().manual_seed(0)
    clean = mix.sources[0].images.float() / 127.5 - 1
    errors = {"student": 0.0, "base": 0.0}
    for level in (0.1, 0.3, 1.0):
        x, sigma = clean + level * torch.randn(clean.shape, generator=generator), torch.tensor(level)
        target = guided.denoiser(x, sigma)
        errors["student"] += float((student.denoiser(x, sigma) - target).square().mean())
        errors["base"] += float((guided.parts[0].denoiser(x, sigma) - target).square().mean())
    assert errors["student"] < 0.8 * errors["base"]
    assert torch.equal(Model.load(tmp_path / "student", device="cpu").sample(3), student.sample(3))
    before = student.path.stat().st_mtime_ns
    assert distil(guided, mix.sources[0], tmp_path / "student", options).path.stat().st_mtime_ns == before


def test_a_student_that_was_trained_otherwise_is_not_passed_for_the_one_asked_for(guided, mix, tmp_path, monkeypatch):
    real, short = mix.sources[0], dataclasses.replace(FIT, budget=48, save_every=16)
    distil(guided, real, tmp_path / "s", short)
    distil(guided, real, tmp_path / "s", dataclasses.replace(short, save_every=32))
    for images, changes, told in (
        (real, {"learning_rate": 1e-4}, "learning_rate"),
        (real, {"budget": 96, "seed": 5}, "budget: 48 -> 96, seed: 0 -> 5"),
        (source("other", 9), {}, "images"),
    ):
        with pytest.raises(UsageError, match=f"trained otherwise .differs in {told}."):
            distil(guided, images, tmp_path / "s", dataclasses.replace(short, **changes))

    def stopped(*args, **options):
        raise KeyboardInterrupt

    # a half-done one goes on only as itself
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nomadiff.improve.distillation.save_tensors", stopped)
        distil(guided, real, tmp_path / "half", dataclasses.replace(short, learning_rate=1e-4))
    again = distil(guided, real, tmp_path / "half", short)
    assert torch.equal(again.sample(2), Model.load(tmp_path / "s", device="cpu").sample(2))
    assert not list((tmp_path / "half").glob("student-of-*"))


def test_only_guided_models_are_distilled(guided, mix, tmp_path):
    with pytest.raises(UsageError, match="already"):
        distil(guided.parts[0], mix.sources[0], tmp_path / "x", FIT)


# the small loop


def problem():
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 1)
    data = torch.randn(64, 4)

    def loss(seen, generator):
        x = data[torch.arange(seen, seen + 16) % 64]
        noise = torch.randn(16, generator=generator)
        return (module(x)[:, 0] - x.sum(1) + 0.1 * noise).square().mean()

    return module, loss


def test_a_fitting_goes_on_where_it_was(tmp_path):
    options = Fitting(budget=640, batch=16, learning_rate=1e-2, ema_half_life=40, save_every=64)
    module, loss = problem()
    whole = fit(module, loss, options, tmp_path / "a.safetensors", device=torch.device("cpu"), description="x")
    for stop in (100, 300, 310, 500):
        module, loss = problem()

        def interrupted(seen, generator, loss=loss, stop=stop):
            if seen >= stop:
                raise KeyboardInterrupt
            return loss(seen, generator)

        with pytest.raises(KeyboardInterrupt):
            fit(module, interrupted, options, tmp_path / "b.safetensors", device=torch.device("cpu"), description="x")
    module, loss = problem()
    broken = fit(module, loss, options, tmp_path / "b.safetensors", device=torch.device("cpu"), description="x")
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), broken.parameters()))
    # the states stay until the result is stored, which is the caller's to do
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_fittings_noise_and_dropout_are_unrelated(tmp_path):
    module, _ = problem()
    given, globally = [], []

    def loss(seen, generator):
        given.append(torch.rand(4, generator=generator))
        globally.append(torch.rand(4))  # what dropout draws from
        return module.weight.square().sum()

    fit(module, loss, FIT, tmp_path / "s.safetensors", device=torch.device("cpu"), description="x")
    assert not any(torch.equal(one, two) for one, two in zip(given, globally))


def test_a_loss_that_is_no_number_is_said(tmp_path):
    module, _ = problem()
    with pytest.raises(NomadiffError, match="not finite after at most [0-9,]+ images"):
        fit(
            module,
            lambda seen, generator: module.weight.sum() * float("nan"),
            FIT,
            tmp_path / "s.safetensors",
            device=torch.device("cpu"),
            description="x",
        )


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError):
        Fitting(budget=0)
    with pytest.raises(UsageError, match="width and share"):
        Autoguidance(PRESET, width=0)
