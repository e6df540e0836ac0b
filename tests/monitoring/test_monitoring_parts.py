"""Losses at fixed noise, their words, grids that are read back, and trackers."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from factories import noise_images, noise_source, stopped_at, tiny_preset
from torch import nn

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.monitoring import trackers
from nomadiff.monitoring.grids import read_grid, write_grid
from nomadiff.monitoring.history import History
from nomadiff.monitoring.settings import TRACKERS, Monitoring
from nomadiff.monitoring.words import findings
from nomadiff.processes import Processes
from nomadiff.training.held_out_loss import FixedImages, fixed_noise_losses
from nomadiff.training.noise_bands import BANDS, band_edges, band_levels, band_names

ALONE = Processes(0, 1, torch.device("cpu"))


class Nothing(nn.Module):
    """Takes every image for grey."""

    def forward(self, x, sigma, **condition):
        self.told = (x, sigma, condition)
        return torch.zeros_like(x)


def test_the_loss_of_a_known_denoiser():
    """Of one that says 0 it is lambda(sigma) mean(x0^2), whatever the noise."""
    mix = SourceMix(noise_source("real"), [noise_source("made", 1)])
    config = CASD(tiny_preset()).recipe(mix)
    images = noise_images(21, 5)
    losses = fixed_noise_losses(Nothing(), FixedImages(images, 1, None), mix, config, ALONE)
    assert losses.shape == (21, BANDS)
    square = ((images.float() / 127.5 - 1) ** 2).flatten(1).mean(1)
    levels = band_levels(config.training.p_mean, config.training.p_std)
    for index in (0, 7, 20):
        for band, pair in enumerate(levels):
            sigma = pair[index % 2]
            weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
            assert float(losses[index, band]) == pytest.approx(float(square[index]) * weight, rel=1e-4)


def test_the_noise_is_the_same_every_time_and_in_every_set():
    mix = SourceMix(noise_source("real"))
    config, network = DM(tiny_preset()).recipe(mix), Nothing()
    seen = []
    for images in (torch.zeros(16, 1, 8, 8, dtype=torch.uint8), torch.full((16, 1, 8, 8), 255, dtype=torch.uint8)):
        torch.manual_seed(len(seen))
        fixed_noise_losses(network, FixedImages(images, 0, None), mix, config, ALONE)
        x, sigma, _ = network.told
        clean = (images[:1].float() / 127.5 - 1).repeat(64, 1, 1, 1)
        seen.append((x - clean) / sigma.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(*seen, atol=1e-3, rtol=1e-3)
    assert abs(float(seen[0].std()) - 1) < 0.05


def test_two_processes_measure_what_one_does():
    mix = SourceMix(noise_source("real"))
    config = DM(tiny_preset()).recipe(mix)
    data = FixedImages(noise_images(40, 3), 0, None)

    class Half(Processes):
        def total(self, value):
            return value

    parts = [fixed_noise_losses(Nothing(), data, mix, config, Half(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    assert torch.equal(parts[0] + parts[1], fixed_noise_losses(Nothing(), data, mix, config, ALONE))


def test_bands_are_quartiles():
    torch.manual_seed(0)
    draws = (torch.randn(100_000) * 1.2 - 1.2).exp()
    shares = torch.bincount(torch.bucketize(draws, torch.tensor(band_edges(-1.2, 1.2)))) / len(draws)
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.01)
    edges = [0.0, *band_edges(-1.2, 1.2), math.inf]
    for (low, high), levels in zip(pairwise(edges), band_levels(-1.2, 1.2)):
        assert all(low < level < high for level in levels)
    assert band_names(-1.2, 1.2)[0] == "sigma below 0.13"


def history(tmp_path, *rows):
    found = History(tmp_path)
    found.rows = [
        {"images_seen": 100 * (index + 1), "held_out_loss": loss, "gap": gap, "gap_error": error}
        for index, (loss, gap, error) in enumerate(rows)
    ]
    return found


@pytest.mark.parametrize(
    ("rows", "verdicts", "said"),
    [
        ([(0.5, 0.0, 0.01)], ["neutral", "good"], "no sign of copying"),
        (
            [(0.5, 0.0, 0.01), (0.5, 0.01, 0.01), (0.4, 0.01, 0.01), (0.3, 0.0, 0.01)],
            ["neutral", "good"],
            "still falling",
        ),
        ([(0.5, 0.0, 0.01), (0.4, 0.1, 0.01), (0.44, 0.2, 0.01)], ["bad", "bad"], "an early sign of copying"),
        ([(0.5, 0.0, 0.01), (0.4, 0.1, 0.08), (0.4, 0.1, 0.08)], ["good", "good"], "no sign of copying"),  # not sure
        ([(0.5, -0.2, 0.01)], ["neutral", "neutral"], "easier than the training images"),
        ([(0.5, 0.0, 0.01), (0.4, 0.0, 0.01), (0.41, 0.0, 0.01)], ["neutral", "good"], "2.5% above its lowest"),
    ],
)
def test_words(tmp_path, rows, verdicts, said):
    found = findings(history(tmp_path, *rows))
    assert [each.verdict for each in found] == verdicts
    assert any(said in each.text for each in found), found


def test_scores_of_two_scales_are_not_set_against_each_other(tmp_path):
    """A run that went on with another detector, or more samples, had its first score for the best one."""
    found, others = History(tmp_path), {"held_out_loss": 0.5, "gap": 0.0, "gap_error": 0.1}
    for images_seen, score in ((10, {"fd_wavelets": 1.0}), (20, {"fd_pixels": 30.0}), (30, {"fd_pixels": 20.0})):
        found.add({"images_seen": images_seen, **score, "samples": 256, **others})
    assert found.measured("score") == [(20, 30.0), (30, 20.0)] and found.best("score") == 30
    found.add({"images_seen": 40, "fd_pixels": 10.0, "samples": 2000, **others})
    assert found.best("score") == 40 and found.stopped_at("score", 1) is None
    assert len(found.measured("loss")) == 4


def test_history_survives_a_torn_line_and_strangers(tmp_path):
    found = History(tmp_path)
    others = {"gap": 0.0, "gap_error": 0.1}
    for images_seen, loss, distance in ((10, 0.5, 3.0), (20, 0.4, 4.0), (20, 0.3, 4.0)):
        found.add({"images_seen": images_seen, "held_out_loss": loss, "fd_pixels": distance, **others})
    found.write()
    with open(found.path, "a") as handle:
        for line in (
            *('{"images_seen": "many", "held_out_loss": 1.0}', '{"images_seen": 30, "held_out_loss": 1.0}', "[]", "{}"),
            '{"images_seen": 30, "held_out_loss": NaN, "gap": 0.0, "gap_error": 0.1}',
            '{"images_seen": 30, "held_out_loss": 0.0, "gap": 0.0, "gap_error": 0.1}',
            '{"images_seen": 30, "held_o',
        ):
            handle.write(f"{line}\n")
    again = History(tmp_path)
    assert again.rows == found.rows and len(again.rows) == 2
    assert again.best("loss") == 20 and again.best("score") == 10
    assert again.stopped_at("score", 1) == 20 and again.stopped_at("loss", 1) is None
    again.trim(10)
    assert [row["images_seen"] for row in History(tmp_path).rows] == [10]


@pytest.mark.parametrize(("count", "channels", "side"), [(4, 1, 8), (32, 3, 8), (13, 3, 32), (1, 1, 80)])
def test_grids_are_read_back(tmp_path, count, channels, side):
    images = noise_images(count, 3, channels, side)
    write_grid(tmp_path / "grid.png", images)
    assert torch.equal(read_grid(tmp_path / "grid.png", count, (channels, side, side)), images)
    with pytest.raises(ValueError, match="not a grid of"):
        read_grid(tmp_path / "grid.png", count, (channels, side + 3, side + 3))


class Fake:
    """accelerate's contract (``GeneralTracker``), kept in a list."""

    name = "fake"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self):
        self.done = []

    @property
    def tracker(self):
        return self

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *values, **options: self.done.append((name, *values, options.get("step")))


def monitored(folder, fake, budget=96, **monitoring):
    mix = SourceMix(noise_source("real"), [noise_source("made", 1)])
    preset = tiny_preset(budget=budget, snapshot_every=48, log_every=32)
    settings = Monitoring(track=(fake,), **monitoring)
    CASD(preset).fit(mix, folder, device="cpu", monitoring=settings)


def test_the_contract_of_trackers(tmp_path):
    fake = Fake()
    monitored(tmp_path / "run", fake, grid=4, validation=noise_source("others", 7, 24))
    names = [each[0] for each in fake.done]
    assert names[:2] == ["start", "store_init_configuration"] and names[-1] == "finish" and names.count("finish") == 1
    settings = fake.done[1][1]
    assert settings["training.budget"] == 96 and settings["method"] == "casd"
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    logged = [(values, step) for name, values, step in (each for each in fake.done if each[0] == "log")]
    assert [step for values, step in logged if "loss" in values] == [32, 48, 64, 96]
    first = logged[0][0]
    assert {"loss", "loss/real", "loss/made", "training/learning_rate", "training/images_per_second"} <= first.keys()
    assert sum(name.startswith("loss_by_noise/made/sigma") for name in first) == 4
    measured = [(values, step) for values, step in logged if "validation/held_out_loss" in values]
    assert [step for _, step in measured] == [48, 96]
    pictures = [each for each in fake.done if each[0] == "log_images"]
    assert [step for *_, step in pictures] == [48, 96] and pictures[0][1]["samples"][0].shape[2] == 3


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path, capsys):
    class Failing(Fake):
        def log(self, values, step=None):
            raise ConnectionError("the server is gone")

    monitored(tmp_path / "run", Failing(), grid=0)
    assert "tracker fake does not log: ConnectionError: the server is gone" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").exists()

    class Never(Fake):
        def start(self):
            raise ConnectionError("no such server")

    with pytest.raises(NomadiffError, match="tracker fake does not start: ConnectionError: no such server"):
        monitored(tmp_path / "other", Never(), grid=0)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"--track {name} needs the package {name}: .*\[{name}\]"):
        monitored(tmp_path / "run", name, grid=0)
    assert not (tmp_path / "run").exists()


def test_ids_survive_a_resume(tmp_path, monkeypatch):
    """What each tracker is called with, the second time as the first."""
    made = []

    def module(name):
        if name == "accelerate.tracking":

            def maker(kind):
                def make(*values, **options):
                    made.append((kind, values, options))
                    tracker = Fake()
                    tracker.name = kind
                    tracker.__class__ = type(
                        "Run", (Fake,), {"tracker": SimpleNamespace(info=SimpleNamespace(run_id="id7"))}
                    )
                    return tracker

                return make

            kinds = {"TensorBoardTracker": "tensorboard", "WandBTracker": "wandb"}
            kinds |= {"MLflowTracker": "mlflow", "TrackioTracker": "trackio"}
            return SimpleNamespace(**{attribute: maker(kind) for attribute, kind in kinds.items()})
        if name == "mlflow":
            return SimpleNamespace(set_tracking_uri=lambda uri: made.append(("uri", uri)))
        return SimpleNamespace(PartialState=lambda **_: None, Image=lambda pixels: pixels)

    monkeypatch.setattr(trackers.importlib, "import_module", module)
    monkeypatch.setattr(trackers, "find_spec", lambda _: SimpleNamespace(origin="there"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    preset = tiny_preset(budget=96, snapshot_every=48, log_every=32)

    def fit():
        settings = Monitoring(track=TRACKERS, grid=0)
        DM(preset).fit(SourceMix(noise_source("real")), tmp_path / "run", device="cpu", monitoring=settings)

    with stopped_at(64):
        fit()
    first = list(made)
    made.clear()
    fit()
    by_kind = [{each[0]: each[1:] for each in calls} for calls in (first, made)]
    assert by_kind[0]["wandb"] == by_kind[1]["wandb"] and by_kind[0]["wandb"][1]["mode"] == "offline"
    assert by_kind[0]["trackio"] == by_kind[1]["trackio"] and by_kind[0]["uri"] == by_kind[1]["uri"]
    assert by_kind[0]["mlflow"][1]["run_id"] is None and by_kind[1]["mlflow"][1]["run_id"] == "id7"
    assert by_kind[0]["tensorboard"][1]["purge_step"] is None and by_kind[1]["tensorboard"][1]["purge_step"] == 49


@pytest.mark.slow
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fit():
        monitored(tmp_path / "run", "tensorboard", grid=4, validation=noise_source("others", 7, 24))

    with stopped_at(64):
        fit()
    fit()
    found = EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss/made")] == [32, 48, 64, 96]
    assert [event.step for event in found.Scalars("validation/held_out_loss")] == [48, 96]
    assert [event.step for event in found.Images("samples")] == [48, 96]
