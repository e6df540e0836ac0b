"""A training that is looked at learns the same, and leaves the same files however often it is killed."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from factories import noise_source, stopped_at, tiny_preset

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, Interrupted, NomadiffError, NomadiffWarning, UsageError
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.methods.sims import SIMS
from nomadiff.models.model import Model
from nomadiff.monitoring import monitor
from nomadiff.monitoring.history import History
from nomadiff.monitoring.monitor import Monitor
from nomadiff.monitoring.settings import Monitoring
from nomadiff.training import loop
from nomadiff.training.run_folder import RunFolder, load_tensors
from nomadiff.workflows.info import describe

NETWORK = {"dropout": 0.1, "augment_dim": 9}
OTHERS = noise_source("others", 7, 24)


def method(kind=CASD, **training):
    options = {"budget": 160, "warmup": 32, "snapshot_every": 48, "log_every": 32, "ema_half_life": 100, **training}
    return kind(tiny_preset(network=NETWORK, **options))


def fitted(folder, monitoring=None, kind=CASD, mix=None, **training):
    mix = mix or SourceMix(noise_source("real"), [noise_source("made", 1, 60)], real_fraction=0.5)
    method(kind, **training).fit(mix, folder, device="cpu", monitoring=monitoring)
    return RunFolder(folder)


def weights(run):
    return load_tensors(run.model_path)[0]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def files(run):
    """What must not depend on kills, byte for byte."""
    names = [run.path / "validation.jsonl", run.best_path, run.model_path, *run.path.glob("grids/*.png")]
    names += run.path.glob("snapshots/*.safetensors")
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in names if path.exists()}


FULL = Monitoring(validation=OTHERS, grid=4, evaluate_every=90, evaluate_count=12, detector="pixels")


@pytest.fixture
def quick_reports(monkeypatch):
    """Without figures, which take the longest."""
    monkeypatch.setattr(Monitor, "_write_report", lambda *_: None)


def test_looking_on_changes_nothing_that_is_learned(tmp_path, quick_reports):
    plain, watched = fitted(tmp_path / "plain", augment=0.2), fitted(tmp_path / "watched", FULL, augment=0.2)
    assert equal(weights(plain), weights(watched))
    for images in plain.snapshots():
        assert equal(*(load_tensors(run.snapshot_path(images))[0] for run in (plain, watched)))
    losses = [
        [
            {name: value for name, value in line.items() if name.startswith(("loss_r", "loss_m"))}
            for line in run.read_log()
        ]
        for run in (plain, watched)
    ]
    for one, other in zip(*losses):  # summed in another order
        assert one == pytest.approx(other, rel=1e-5) and one


def test_what_is_measured(tmp_path, quick_reports):
    run = fitted(tmp_path / "run", FULL)
    rows = History(run.path).rows
    assert [row["images_seen"] for row in rows] == run.snapshots() == [48, 96, 144, 160]
    for row in rows:
        assert len(row["held_out_loss_by_noise"]) == len(row["training_loss_real_by_noise"]) == 4
        assert row["held_out_loss"] == pytest.approx(sum(row["held_out_loss_by_noise"]) / 4, rel=1e-5)
        assert row["gap"] == pytest.approx(row["held_out_loss"] - row["training_loss_real"], abs=1e-5)
        assert row["training_loss_made"] > 0 and row["gap_error"] > 0
    assert ["fd_pixels" in row for row in rows] == [False, True, False, True]  # every 90 images, and at the end
    assert run.config().validation.count == 24
    log = run.read_log()
    assert {*log[-1]["loss_by_noise"]} == {"real", "made"} and len(log[-1]["loss_by_noise"]["real"]) == 4
    best = History(run.path).best("loss")
    assert best == min(rows, key=lambda row: row["held_out_loss"])["images_seen"]
    assert equal(load_tensors(run.best_path)[0], load_tensors(run.snapshot_path(best))[0])
    assert Model.load(run.best_path, device="cpu").sample(2).shape == (2, 1, 8, 8)
    assert sorted(path.name for path in run.path.glob("grids/*")) == [
        f"{images:012d}.png" for images in run.snapshots()
    ]


@pytest.mark.parametrize("images_seen", [16, 112, 144])
def test_a_stopped_run_leaves_the_files_of_an_unbroken_one(tmp_path, images_seen, quick_reports):
    whole = fitted(tmp_path / "whole", FULL)
    with stopped_at(images_seen):
        fitted(tmp_path / "broken", FULL)
    assert files(fitted(tmp_path / "broken", FULL)) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_at_any_file_leaves_the_same(tmp_path, after, killed_at_write, quick_reports):
    options = {"budget": 96, "snapshot_every": 48}
    wanted = files(fitted(tmp_path / "whole", FULL, **options))
    for number in range(1, 40):
        folder = tmp_path / str(number)
        if not killed_at_write(number, after, lambda folder=folder: fitted(folder, FULL, **options)):
            break
        assert files(fitted(folder, FULL, **options)) == wanted, number
    assert 12 < number < 39


def test_an_unfinished_measurement_is_made_again_where_the_model_was_written(tmp_path, quick_reports, monkeypatch):
    run = fitted(tmp_path / "run", FULL)
    wanted = files(run)
    history = History(run.path)
    history.trim(144)
    run.best_path.unlink(missing_ok=True)
    monkeypatch.setattr(loop._Training, "_step", lambda *_: pytest.fail("trained again"))
    fitted(tmp_path / "run", replace(FULL, evaluate_every=None, detector=Monitoring.detector))
    made = History(run.path).rows
    assert [row["images_seen"] for row in made] == [48, 96, 144, 160]
    assert files(run).keys() == wanted.keys() and run.best_path.read_bytes() == wanted["best.safetensors"]


def test_a_share_is_set_apart_and_not_trained_on(tmp_path, quick_reports):
    asked = Monitoring(validation=0.25, grid=0)
    run = fitted(tmp_path / "run", asked)
    real = run.read_sources()[0]
    assert real["count"] == 30 and real["subset"] == ["without-validation:0.25:0"]
    assert run.config().validation.count == 10
    again = fitted(tmp_path / "again", replace(asked, validation="0.25"))
    assert equal(weights(run), weights(again)) and run.config() == again.config()
    other = fitted(tmp_path / "other", asked, seed=1)
    assert other.config().validation.content_hash != run.config().validation.content_hash
    source = replace(noise_source("real"), names=tuple(f"{index}.png" for index in range(40)))
    everything = {image.numpy().tobytes() for image in source.images}
    settings, mix = monitor_of(0.25, source)
    parts = [{image.numpy().tobytes() for image in part.images} for part in (settings.validation, mix.sources[0])]
    assert parts[0] | parts[1] == everything and not parts[0] & parts[1]
    assert sorted({*settings.validation.names, *mix.sources[0].names}) == sorted(source.names)
    with pytest.raises(UsageError, match="holds another run .*validation"):
        fitted(tmp_path / "run", Monitoring(grid=0))
    with pytest.raises(UsageError, match="too few to set apart"):
        fitted(tmp_path / "none", Monitoring(validation=0.001))


def monitor_of(validation, real):
    from nomadiff.monitoring.validation import set_apart

    return set_apart(Monitoring(validation=validation), SourceMix(real), 0)


def test_validation_images_that_are_trained_on_are_left_out():
    real = noise_source("real")
    mixed = replace(OTHERS, images=torch.cat([OTHERS.images[:4], real.images[:3]]), labels=None, names=tuple("abcdefg"))
    with pytest.warns(NomadiffWarning, match="3 of the validation images are training images"):
        settings, mix = monitor_of(mixed, real)
    assert torch.equal(settings.validation.images, OTHERS.images[:4]) and mix.sources[0] is real
    assert settings.validation.names == tuple("abcd")
    with pytest.raises(UsageError, match="nothing but training images"):
        monitor_of(real, real)
    with pytest.raises(UsageError, match=r"images of 3x8x8, the training set of 1x8x8"):
        monitor_of(noise_source("colour", channels=3), real)


def rising(monkeypatch, losses):
    """A run whose held-out losses are these, one a snapshot."""
    told = iter(losses)

    def made(self, denoiser, images_seen):
        loss = next(told)
        return {"images_seen": images_seen, "held_out_loss": loss, "gap": 0.0, "gap_error": 0.1}

    monkeypatch.setattr(Monitor, "_losses", made)


def test_early_stop(tmp_path, quick_reports, monkeypatch, capsys):
    asked = Monitoring(validation=OTHERS, grid=0, early_stop=2)
    rising(monkeypatch, [0.5, 0.4, 0.41, 0.42, 0.1])
    run = fitted(tmp_path / "run", asked, budget=1600)
    assert (
        "stopped early at 192 of 1,600 images: 2 measurements without a better held-out loss" in capsys.readouterr().err
    )
    seen = [load_tensors(path)[1]["images_seen"] for path in (run.model_path, run.best_path, run.state_path)]
    assert seen == [192, 96, 192]
    before = files(run)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", lambda *_: pytest.fail("trained again"))
        fitted(tmp_path / "run", asked, budget=1600)
        shutil.copytree(run.path, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / "state")
        fitted(tmp_path / "copy", asked, budget=1600)
    assert files(run) == files(RunFolder(tmp_path / "copy")) == before
    rising(monkeypatch, [0.3] * 9)
    fitted(tmp_path / "run", replace(asked, early_stop=None), budget=480)  # without it, the run goes on
    assert "continuing from 192 of 480 images" in capsys.readouterr().err
    assert load_tensors(run.model_path)[1]["images_seen"] == 480


def test_what_cannot_be_asked():
    for given, said in (
        ({"early_stop": 2}, "--early-stop needs images .* pass --validation"),
        ({"evaluate_every": 10}, "--evaluate-every needs images .* pass --validation"),
        ({"validation": 1.5}, "share .* between 0 and 1, got 1.5"),
        ({"validation": "photos", "best_by": "score"}, "pass --evaluate-every"),
        ({"best_by": "luck"}, "choose loss or score"),
        ({"validation": "photos", "detector": "pixels"}, "pass --evaluate-every too"),
        ({"validation": "photos", "detector_weights": "a.pt"}, "pass --evaluate-every too"),
        ({"track": ("comet",)}, "unknown tracker 'comet': choose among tensorboard, wandb, mlflow, trackio"),
        ({"validation": 0.1, "early_stop": 0}, "early_stop must be at least 1"),
    ):
        with pytest.raises(UsageError, match=said):
            Monitoring(**given)


def test_what_cannot_be_scored_is_found_before_the_folder_is_claimed(tmp_path):
    few = replace(OTHERS, images=OTHERS.images[:5], labels=None)
    for asked, said in (
        ({"validation": few}, "at least 10 samples and validation images, got 5"),
        ({"validation": OTHERS, "detector": "none-such"}, "none-such"),
    ):
        with pytest.raises(UsageError, match=said):
            fitted(tmp_path / "run", Monitoring(**asked, evaluate_every=10))
    assert not (tmp_path / "run").exists()


def test_a_base_is_monitored_and_its_guidance_sees_no_validation_image(tmp_path, quick_reports, monkeypatch):
    real = noise_source("real")
    seen = []
    original = SIMS.guide

    def recorded(self, base, mix, out, **options):
        seen.append(mix.sources[0].images)
        return original(self, base, mix, out, **options)

    monkeypatch.setattr(SIMS, "guide", recorded)
    run = fitted(tmp_path / "run", Monitoring(validation=0.25, grid=0), SIMS, SourceMix(real))
    assert len(seen[0]) == 30 and len(History(run.path / "base").rows) > 1
    with pytest.raises(UsageError, match="divides one budget between two trainings"):
        fitted(tmp_path / "other", Monitoring(validation=0.25, early_stop=1), SIMS, SourceMix(real))


def test_a_network_that_draws_nonsense_goes_on_training(tmp_path, quick_reports, monkeypatch, capsys):
    def broken(*_, **__):
        raise NomadiffError("what the model draws is not finite")

    monkeypatch.setattr(monitor.Drawable, "sample", broken)
    run = fitted(tmp_path / "run", Monitoring(grid=4), DM, SourceMix(noise_source("real")))
    assert run.model_path.exists() and not (run.path / "grids").exists()
    assert capsys.readouterr().err.count("no samples after 48 images: what the model draws is not finite") == 1


def test_class_labels_of_validation_images_are_the_models(tmp_path, quick_reports):
    mix = SourceMix(noise_source("real"))
    labelled = DM(tiny_preset(network=NETWORK, budget=32, snapshot_every=16), class_labels=True)
    labelled.fit(mix, tmp_path / "run", device="cpu", monitoring=Monitoring(validation=OTHERS, grid=3))
    assert len(History(tmp_path / "run").rows) == 2
    with pytest.raises(UsageError, match="the validation images have none"):
        bare = noise_source("others", 7, labels=False)
        labelled.fit(mix, tmp_path / "other", device="cpu", monitoring=Monitoring(validation=bare))


@contextmanager
def terminated_at(images_seen):
    """Send SIGTERM during the step that begins at so many images."""
    step = loop._Training._step

    def terminated(self, meter):
        if self.images_seen == images_seen:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, meter)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="run the same command again"):
        patch.setattr(loop._Training, "_step", terminated)
        yield


def test_a_page_says_that_its_run_was_stopped_and_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    with terminated_at(16):
        fitted(run, Monitoring(grid=0))
    page = (run / "report.html").read_text()
    assert "Stopped at 32 of 160 images: run the same command again to go on." in page and "; stopped, as of" in page
    assert "trained:     32 of 160 images (unfinished)" in describe(str(run))
    fitted(run, Monitoring(grid=0))
    page = (run / "report.html").read_text()
    assert "; finished, as of" in page and "Stopped" not in page


@pytest.mark.slow
def test_the_report_shows_the_run(tmp_path, monkeypatch):
    with terminated_at(96):  # before the step that ends at 112
        fitted(tmp_path / "run", FULL)
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page and "left; stopped, as of" in page
    assert "Stopped at 112 of 160 images: run the same command again to go on." in page
    assert "trained:     112 of 160 images (unfinished)" in describe(str(tmp_path / "run"))
    seen: list[str] = []
    monkeypatch.setattr(
        loop._Training, "_go_on", lambda *_: seen.append((tmp_path / "run" / "report.html").read_text())
    )
    with pytest.raises(DataError, match="is not finished"):  # nothing was trained
        fitted(tmp_path / "run", FULL)
    monkeypatch.undo()
    assert 'http-equiv="refresh"' in seen[0] and "112 of 160 images (70%)" in seen[0] and "left; running" in seen[0]
    fitted(tmp_path / "run", FULL)
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page and "160 of 160 images (100%)" in page and "; finished" in page
    for said in (
        "Held-out loss",
        "Training loss by source",
        "Training loss by noise, made",
        "48 images",
        "sigma below",
    ):
        assert said in page, said
    assert "Distance to the validation images" in page and page.count("<img ") == 4
