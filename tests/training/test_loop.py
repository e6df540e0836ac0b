import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import noise_source, stopped_at

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, Interrupted, NomadiffError, NomadiffWarning, UsageError
from nomadiff.methods.registry import METHODS
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training import loop
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.presets import Preset
from nomadiff.training.run_folder import RunFolder, load_tensors, save_tensors
from nomadiff.training.settings import TrainingConfig

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def mix():
    return SourceMix(noise_source("real"), [noise_source("made", 1, count=60)], real_fraction=0.5)


def small(**training):
    """A network of a few thousand weights with every part of the real one: dropout, attention, labels."""
    options = {"budget": 160, "batch": 16, "warmup": 32, "snapshot_every": 48, "log_every": 32, "ema_half_life": 100}
    network = NetworkConfig("ddpmpp", 8, 1, 8, (1, 2), 1, (4,), dropout=0.1, augment_dim=9)
    return Preset(network, TrainingConfig(**{**options, **training}), SamplerConfig(steps=4), 0.5, "test")


def recipe(mix, method="casd", **training):
    return METHODS[method](small(**training)).recipe(mix)


def weights(folder):
    return load_tensors(folder.model_path)[0]


def test_noise_motion_and_dropout_are_unrelated(mix, tmp_path, monkeypatch):
    """Whether an image is moved, or its class hidden, tells nothing about its noise level."""
    levels, mirrored, hidden, first_uniform = [], [], [], []
    original = loop.edm_loss

    def recorded(denoiser, images, sigma, noise, **condition):
        levels.append(sigma.log())
        mirrored.append(condition["augment"][:, 0] > 0)
        hidden.append(condition["class_label"] < 0)
        first_uniform.append(torch.rand(len(sigma)))  # what dropout draws from
        return original(denoiser, images, sigma, noise, **condition)

    monkeypatch.setattr(loop, "edm_loss", recorded)
    labelled = METHODS["casd"](small(budget=1280, batch=64, augment=0.2, class_dropout=0.5), class_labels=True)
    train(labelled.recipe(mix), mix, RunFolder(tmp_path / "run"), ALONE)
    noise = torch.cat(levels)
    draws = {"mirrored": torch.cat(mirrored), "hidden": torch.cat(hidden), "dropout": torch.cat(first_uniform)}
    for name, value in draws.items():
        chosen = value > 0.5
        for part in (noise[chosen], noise[~chosen]):
            assert abs(float(part.mean()) + 1.2) < 0.15 and abs(float(part.std()) - 1.2) < 0.15, name
        for other, against in draws.items():
            if other != name:
                assert abs(float(torch.corrcoef(torch.stack([value, against]).float())[0, 1])) < 0.1, (name, other)


def test_run_folder_is_complete(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    assert folder.config() == recipe(mix)
    assert folder.snapshots() == [48, 96, 144, 160]
    log = folder.read_log()
    assert [record["images_seen"] for record in log] == [32, 48, 64, 96, 128, 144, 160]
    assert all(record["loss"] > 0 for record in log)
    assert {"loss_real", "loss_made"} <= log[0].keys()
    assert log[-1]["source_effect"] > 0
    sources = json.loads((folder.path / "sources.json").read_text())
    assert [entry["name"] for entry in sources] == ["real", "made"]
    last = load_tensors(folder.snapshot_path(160))[0]
    assert all(torch.equal(last[name], value) for name, value in weights(folder).items())


@pytest.mark.parametrize("augment", [0.0, 0.2])
def test_stopped_run_continues_bit_for_bit(mix, tmp_path, augment, monkeypatch):
    """A run cut at an arbitrary step and continued has the weights of the unbroken one."""
    config = recipe(mix, augment=augment)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    train(config, mix, whole, ALONE)
    with stopped_at(112):
        train(config, mix, broken, ALONE)
    torch.randn(100)  # what happened before must not matter
    train(config, mix, broken, ALONE)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(broken)[name]), name
    losses = [[record["loss"] for record in folder.read_log()] for folder in (whole, broken)]
    assert [record["images_seen"] for record in broken.read_log()] == [32, 48, 64, 96, 128, 144, 160]
    # the first line after a resume covers fewer images, the others are the same
    assert losses[0][-3:] == losses[1][-3:]


def test_larger_budget_extends(mix, tmp_path):
    extended, whole = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train(recipe(mix, budget=96), mix, extended, ALONE)
    train(recipe(mix), mix, extended, ALONE)
    train(recipe(mix), mix, whole, ALONE)
    assert all(torch.equal(value, weights(extended)[name]) for name, value in weights(whole).items())


def test_finished_run_costs_nothing(mix, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    monkeypatch.setattr(loop._Training, "_step", lambda self, meter: pytest.fail("trained again"))
    train(recipe(mix), mix, folder, ALONE)


def test_a_finished_run_stays_finished_without_its_state(mix, tmp_path, monkeypatch):
    """Its state is the larger part of a run: who removes it, or copies the run without it, keeps a finished model."""
    folder, copied = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "copy")
    train(recipe(mix), mix, folder, ALONE)
    shutil.rmtree(folder.state_path.parent)
    folder.copy_to(copied.path)
    assert sorted(path.name for path in copied.path.rglob("*.*")) == sorted(
        path.name for path in folder.path.rglob("*.*") if path.name != ".lock"
    )
    monkeypatch.setattr(loop._Training, "_step", lambda self, meter: pytest.fail("trained again"))
    for run in (folder, copied):
        trained = train(recipe(mix), mix, run, ALONE)
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in weights(folder).items())
    before = {path: path.read_bytes() for path in folder.path.rglob("*.*")}
    with pytest.raises(UsageError, match=r"finished at 160 images and its state/ was removed"):
        train(recipe(mix, budget=320), mix, folder, ALONE)
    assert {path: path.read_bytes() for path in folder.path.rglob("*.*")} == before


@pytest.mark.parametrize(("change", "named"), [({"learning_rate": 0.5}, "learning_rate"), ({"seed": 3}, "seed")])
def test_other_run_is_not_overwritten(mix, tmp_path, change, named):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    before = folder.model_path.read_bytes()
    with pytest.raises(UsageError, match=f"holds another run.*{named}"):
        train(recipe(mix, **change), mix, folder, ALONE)
    assert folder.model_path.read_bytes() == before


def test_other_images_are_another_run(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    other = SourceMix(noise_source("real", 9), [noise_source("made", 1, count=60)], real_fraction=0.5)
    with pytest.raises(UsageError, match="another run.*data"):
        train(recipe(other), other, folder, ALONE)


def relabelled(mix, labels, names=None):
    real = replace(mix.sources[0], labels=torch.tensor(labels), class_names=names)
    return SourceMix(real, mix.sources[1:], real_fraction=0.5)


def called_by_name(mix):
    real, made = (replace(source, class_names=("cat", "dog", "fox")) for source in mix.sources)
    return SourceMix(real, [made], real_fraction=0.5)


def half_done(mix, folder, monkeypatch, budget=96):
    """A class-conditional run of which less than the budget is done."""
    method = METHODS["casd"](small(budget=budget), class_labels=True)
    train(replace(method.recipe(mix), training=replace(method.training, budget=48)), mix, folder, ALONE)
    return method


@pytest.mark.parametrize("change", ["one label", "two swapped", "another class", "a name"])
def test_other_labels_are_another_run(mix, tmp_path, monkeypatch, change):
    folder = RunFolder(tmp_path / "run")
    labels, names = [index % 3 for index in range(40)], None
    if change == "a name":
        mix = called_by_name(mix)
        names = ("cat", "dog", "owl")
    method = half_done(mix, folder, monkeypatch)
    if change == "one label":
        labels[7] = 2
    elif change == "two swapped":
        labels[0], labels[1] = labels[1], labels[0]
    elif change == "another class":
        labels[5] = 8
    other = relabelled(mix, labels, names)
    with pytest.raises(UsageError, match="holds another run .*labels.*choose another --out"):
        train(method.recipe(other), other, folder, ALONE)
    train(method.recipe(mix), mix, folder, ALONE)  # the same labels go on


def test_labels_that_are_not_used_do_not_matter(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix, budget=48), mix, folder, ALONE)
    other = relabelled(mix, [0] * 40)
    train(recipe(other, budget=96), other, folder, ALONE)


def without_names(folder):
    """Make a run's recipe what it was before labels had names."""
    file = folder.path / "config.json"
    stored = json.loads(file.read_text())
    for name in ("labels", "class_names", "class_counts"):
        del stored["recipe"][name]
    file.write_text(json.dumps(stored))


def test_runs_of_before_labels_had_names_go_on_if_nothing_changed(mix, tmp_path, monkeypatch):
    named = called_by_name(mix)
    for number, data in enumerate((mix, named)):
        folder = RunFolder(tmp_path / str(number))
        method = half_done(data, folder, monkeypatch)
        without_names(folder)
        train(method.recipe(data), data, folder, ALONE)
        assert json.loads((folder.path / "config.json").read_text())["recipe"]["labels"]
    # each source numbered its own folders: what was 0 in the second was "dog"
    changed = SourceMix(
        named.sources[0], [replace(mix.sources[1], class_names=("dog", "fox", "owl"))], real_fraction=0.5
    )
    folder = RunFolder(tmp_path / "changed")
    method = half_done(changed, folder, monkeypatch)
    without_names(folder)
    with pytest.raises(UsageError, match="differs in class_counts.* class_names.* labels"):
        train(method.recipe(changed), changed, folder, ALONE)


def test_a_label_out_of_range_is_refused_before_the_step(mix, tmp_path, monkeypatch):
    """On the host, once a batch: labels on a GPU are not checked again."""
    method = METHODS["casd"](small(budget=48), class_labels=True)
    for field, wrong in (("labels", 3), ("source", 2)):

        def broken(self, start, count, seed, original=SourceMix.batch, field=field, wrong=wrong):
            batch = original(self, start, count, seed)
            return batch._replace(**{field: getattr(batch, field).clone().fill_(wrong)})

        with monkeypatch.context() as patch:
            patch.setattr(SourceMix, "batch", broken)
            with pytest.raises(UsageError, match=f"must lie in 0..{wrong - 1}, got {wrong}"):
                train(method.recipe(mix), mix, RunFolder(tmp_path / field), ALONE)


def test_foreign_folder_is_refused(mix, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match="not empty"):
        train(recipe(mix), mix, RunFolder(tmp_path), ALONE)
    assert (tmp_path / "photo.png").read_bytes() == b"precious"


def test_folder_in_use_is_refused(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock(), pytest.raises(UsageError, match="in use"):
        train(recipe(mix), mix, RunFolder(tmp_path / "run"), ALONE)


def test_microbatches_add_up_to_the_whole_batch(mix, tmp_path, monkeypatch):
    """With a loss that draws no noise, a batch in four parts makes the same model as the batch at once."""

    def noiseless(denoiser, images, sigma, noise, *, sigma_data, **condition):
        return (denoiser(images, torch.ones_like(sigma), **condition) - images) ** 2

    monkeypatch.setattr(loop, "edm_loss", noiseless)
    results = []
    for microbatch in (None, 5):
        config = recipe(mix, microbatch=microbatch, budget=64)
        config = replace(config, network=replace(config.network, dropout=0.0))
        folder = RunFolder(tmp_path / str(microbatch))
        train(config, mix, folder, ALONE)
        results.append(weights(folder))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4)


def test_images_seen_decide_not_the_log_or_snapshot_rhythm(mix, tmp_path):
    runs = [RunFolder(tmp_path / str(i)) for i in range(2)]
    train(recipe(mix), mix, runs[0], ALONE)
    train(recipe(mix, log_every=16, snapshot_every=1000), mix, runs[1], ALONE)
    assert all(torch.equal(value, weights(runs[1])[name]) for name, value in weights(runs[0]).items())


def test_nan_loss_is_one_clear_error(mix, tmp_path):
    config = recipe(mix, learning_rate=1e30, warmup=0)
    with pytest.raises(NomadiffError, match="not finite.*learning-rate"):
        train(config, mix, RunFolder(tmp_path / "run"), ALONE)
    assert not RunFolder(tmp_path / "run").model_path.exists()


def test_memory_error_says_what_to_change(mix, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 bytes")

    monkeypatch.setattr(loop, "edm_loss", full)
    with pytest.raises(NomadiffError, match="--microbatch 8"):
        train(recipe(mix), mix, RunFolder(tmp_path / "run"), ALONE)


def test_network_that_ignores_its_source_is_refused_before_training(mix, tmp_path, monkeypatch):
    config = recipe(mix)
    build = RunConfig.build_denoiser

    def deaf(self):
        denoiser = build(self)
        inner = denoiser.network.forward
        denoiser.network.forward = lambda x, noise, labels, augment=None: inner(x, noise, labels * 0, augment)
        return denoiser

    monkeypatch.setattr(RunConfig, "build_denoiser", deaf)
    with pytest.raises(NomadiffError, match="ignores its source label"):
        train(config, mix, RunFolder(tmp_path / "run"), ALONE)


def test_batch_must_divide_among_processes(mix, tmp_path):
    with pytest.raises(UsageError, match="divide"):
        train(recipe(mix), mix, RunFolder(tmp_path / "run"), Processes(0, 3, torch.device("cpu")))


def contents(folder):
    """Every file byte for byte, but of the log what does not tell the time."""
    files = {path.relative_to(folder.path): path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()}
    files = {path: content for path, content in files.items() if path.name not in (".lock", "log.jsonl")}
    return files, [record["images_seen"] for record in folder.read_log()]


@pytest.mark.slow
@pytest.mark.parametrize("stds", [(), (0.05, 0.10)], ids=["one-average", "two"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("budget", [48, 96])  # its only snapshot is its end; it has one on the way
def test_killed_at_any_write_it_goes_on_to_the_same_folder(mix, tmp_path, killed_at_write, stds, after, budget):
    config = recipe(mix, budget=budget, ema_stds=stds)
    whole = RunFolder(tmp_path / "whole")
    train(config, mix, whole, ALONE)
    for number in itertools.count(1):
        broken = RunFolder(tmp_path / str(number))
        if not killed_at_write(number, after, lambda: train(config, mix, broken, ALONE)):  # noqa: B023
            break
        for snapshot in broken.snapshots():  # whatever is there is whole
            assert load_tensors(broken.snapshot_path(snapshot))[1]["images_seen"] == snapshot
        train(config, mix, broken, ALONE)
        assert contents(broken) == contents(whole), number
    assert number > (5 if budget == 48 else 7)


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("harm", ["deleted", "truncated"])
def test_a_lost_model_is_made_again(mix, tmp_path, monkeypatch, state, harm):
    """From the state, or from the last snapshot where the state is gone."""
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    if not state:
        shutil.rmtree(folder.state_path.parent)
    before = contents(folder)
    if harm == "deleted":
        folder.model_path.unlink()
    else:
        folder.model_path.write_bytes(folder.model_path.read_bytes()[:-7])
        with pytest.raises(DataError, match=r"model\.safetensors: damaged .* run the training command again"):
            Model.load(folder.path, device="cpu")
    monkeypatch.setattr(loop._Training, "_step", lambda self, meter: pytest.fail("trained again"))
    train(recipe(mix), mix, folder, ALONE)
    assert contents(folder) == before


def test_a_run_that_an_earlier_version_left_stuck_is_finished(mix, tmp_path, monkeypatch):
    """The state was written first: killed then, a run had all it had learnt and neither last snapshot nor model."""
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    before = contents(folder)
    folder.model_path.unlink()
    folder.snapshot_path(160).unlink()
    monkeypatch.setattr(loop._Training, "_step", lambda self, meter: pytest.fail("trained again"))
    train(recipe(mix), mix, folder, ALONE)
    assert contents(folder) == before


def test_a_damaged_state_is_named_and_deleting_it_begins_again_from_zero(mix, tmp_path):
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    train(recipe(mix, budget=96), mix, folder, ALONE)
    train(recipe(mix), mix, whole, ALONE)
    folder.model_path.unlink()
    folder.state_path.write_bytes(folder.state_path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"training\.safetensors: damaged.*delete it to train again from zero"):
        train(recipe(mix), mix, folder, ALONE)
    folder.state_path.unlink()
    with pytest.warns(UserWarning, match=r"no state/ to go on from: it is trained again from zero"):
        train(recipe(mix), mix, folder, ALONE)
    assert contents(folder) == contents(whole)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, seen: ({"x": torch.zeros(1)}, seen),  # safetensors 0.4.3 cannot read a file of no tensors
        lambda tensors, seen: (without(tensors, "ema0.network.map_layer0.weight"), seen),
        lambda tensors, seen: (without(tensors, "adam.1.exp_avg"), seen),
        lambda tensors, seen: ({**tensors, "adam.0.exp_avg": torch.zeros(1)}, seen),
        lambda tensors, seen: ({**tensors, "adam.0.exp_avg_sq": torch.zeros(4, 4)}, seen),
        lambda tensors, seen: ({**tensors, "adam.0.step": torch.zeros(9)}, seen),
        lambda tensors, seen: ({**tensors, "adam.99999.step": torch.zeros(())}, seen),
        lambda tensors, seen: ({**tensors, "adam.\x1b[2J\n.step": torch.zeros(())}, seen),
        lambda tensors, seen: (tensors, "48"),
        lambda tensors, seen: (tensors, -48),
        lambda tensors, seen: (tensors, None),
    ],
)
def test_the_state_of_something_else_is_refused(mix, tmp_path, change):
    """The fused optimizer does not look at the shapes of its moments: it would write beyond them."""
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix, budget=96), mix, folder, ALONE)
    folder.model_path.unlink()
    tensors, metadata = load_tensors(folder.state_path)
    tensors, seen = change(tensors, metadata["images_seen"])
    save_tensors(folder.state_path, tensors, {"images_seen": seen})
    with pytest.raises(DataError, match=r"not the state of this training \(.*\): delete it to train again") as caught:
        train(recipe(mix), mix, folder, ALONE)
    assert str(caught.value).isprintable()


def test_the_model_of_something_else_is_no_finished_run(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    shutil.rmtree(folder.state_path.parent)
    save_tensors(folder.model_path, {"x": torch.zeros(3)}, load_tensors(folder.model_path)[1])
    with pytest.raises(DataError, match=r"not the model of this run \(.*\); delete it and run the same command again"):
        train(recipe(mix), mix, folder, ALONE)
    folder.model_path.unlink()
    train(recipe(mix), mix, folder, ALONE)


def test_a_finished_run_needs_no_whole_state(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    folder.state_path.write_bytes(folder.state_path.read_bytes()[:1000])
    train(recipe(mix), mix, folder, ALONE)
    with pytest.raises(NomadiffError, match=r"training\.safetensors.*from zero, or use one of the snapshots"):
        train(recipe(mix, budget=1000), mix, folder, ALONE)


@pytest.mark.parametrize(
    ("budget", "said"), [(100, "--snapshot 96"), (128, "--snapshot 96"), (16, ": choose another --out")]
)
def test_a_smaller_budget_than_was_seen_is_refused_and_nothing_is_rewritten(mix, tmp_path, budget, said):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    for _ in range(2):  # with its state and without
        before = contents(folder)
        with pytest.raises(UsageError, match=f"has seen 160 images, more than the budget.*{said}"):
            train(recipe(mix, budget=budget), mix, folder, ALONE)
        assert contents(folder) == before
        shutil.rmtree(folder.state_path.parent, ignore_errors=True)


def test_a_budget_between_what_was_seen_and_what_was_asked_is_taken(mix, tmp_path, killed_at_write):
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    assert killed_at_write(6, False, lambda: train(recipe(mix), mix, folder, ALONE))
    assert folder.snapshots()[-1] < 144
    train(recipe(mix, budget=144), mix, folder, ALONE)
    train(recipe(mix, budget=144), mix, whole, ALONE)
    (files, log), (others, other_log) = contents(folder), contents(whole)
    early = Path("snapshots", f"{48:012d}.safetensors")  # tells the budget it was made with
    (made, _), (wanted, _) = load_tensors(folder.path / early), load_tensors(whole.path / early)
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    del files[early], others[early]
    assert files == others and log == other_log


def test_reading_a_finished_run_keeps_the_versions_that_made_it(mix, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    train(recipe(mix), mix, folder, ALONE)
    before = contents(folder)
    monkeypatch.setattr("nomadiff.training.run_folder.versions", lambda: {"nomadiff": "later"})
    train(recipe(mix), mix, folder, ALONE)
    assert contents(folder) == before


def test_a_log_on_a_full_disk_is_told_in_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log_path = Path("/dev/full")
    with pytest.raises(NomadiffError, match=r"/dev/full: the disk is full"):
        folder.log({"images_seen": 1})


def command(out, budget):
    return [
        *(sys.executable, "-m", "nomadiff", "train", "--real", "digits:pool", "--real-subset", "first:100"),
        *("--preset", "digits", "--method", "dm", "--budget", str(budget), "--batch", "32"),
        *("--snapshot-every", "320", "--log-every", "320", "--device", "cpu", "--out", str(out)),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(tmp_path, number):
    process = subprocess.Popen(
        command(tmp_path / "run", 10_000_000),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 60
    while not folder.snapshots() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    _, metadata = load_tensors(folder.state_path)
    assert metadata["images_seen"] >= folder.snapshots()[-1]


@pytest.mark.parametrize("moment", ["_step", "_save"])
def test_a_signal_at_the_end_is_heard_too(mix, tmp_path, moment, monkeypatch):
    """A training is one of many things that its caller does: told to stop in its last step, nothing is to come after.

    ``_save`` of the last snapshot may take minutes, where samples are drawn and scored.
    """
    folder, usual = RunFolder(tmp_path / "run"), getattr(loop._Training, moment)

    def told(self, given):
        if self.images_seen >= (144 if moment == "_step" else 160):
            signal.raise_signal(signal.SIGTERM)
        return usual(self, given)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at 160 of 160") as stopped:
        patch.setattr(loop._Training, moment, told)
        train(recipe(mix), mix, folder, ALONE)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    before = folder.model_path.read_bytes()
    train(recipe(mix), mix, folder, ALONE)  # whole already
    assert folder.model_path.read_bytes() == before and folder.snapshots() == [48, 96, 144, 160]


def test_a_budget_inside_the_warm_up_is_told_before_training(tmp_path, recwarn):
    inside = TrainingConfig(budget=3000, warmup=10_000)
    assert "pass a larger --budget, or --warmup 300" in inside.inside_warmup
    for budget, warmup in ((10_000, 10_000), (3000, 0)):
        assert not TrainingConfig(budget=budget, warmup=warmup).inside_warmup
        TrainingConfig(budget=budget, warmup=warmup).warn_of_budget()
    assert not recwarn
    with pytest.warns(NomadiffWarning, match="inside the warm-up of 10,000"):
        inside.warn_of_budget()
