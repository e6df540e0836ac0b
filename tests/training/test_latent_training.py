"""Training on latents: fresh draws that a resumed run repeats, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factories import stopped_at

from nomadiff.data.image_source import ImageSource
from nomadiff.data.latents import LatentSpace
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import read_json
from nomadiff.methods.registry import METHODS
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.presets import PRESETS, Preset
from nomadiff.training.run_folder import RunFolder, load_tensors
from nomadiff.training.settings import TrainingConfig

ALONE = Processes(0, 1, torch.device("cpu"))
SPACE = LatentSpace("vae", "0" * 64, 2, mean=(1.0, -2.0), std=(3.0, 0.5))


def source(name: str, count: int, seed: int, space: LatentSpace = SPACE) -> ImageSource:
    stored = torch.rand(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ImageSource(name, stored.half(), torch.arange(count) % 3, {"kind": "real"}, space)


@pytest.fixture
def mix() -> SourceMix:
    return SourceMix(source("real", 24, 0), [source("made", 40, 1)], real_fraction=0.5)


def recipe(mix: SourceMix, method: str = "casd", **training) -> RunConfig:
    options = {"budget": 96, "batch": 16, "warmup": 32, "snapshot_every": 48, "log_every": 48, "ema_stds": (0.05, 0.1)}
    network = NetworkConfig("edm2", 64, 4, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)
    preset = Preset(network, TrainingConfig(**{**options, **training}), SamplerConfig(steps=4), 0.5, "test")
    return METHODS[method](preset).recipe(mix)


@pytest.mark.parametrize("microbatch", [None, 4])
def test_stopped_run_continues_bit_for_bit(mix, tmp_path, monkeypatch, microbatch):
    config = recipe(mix, microbatch=microbatch)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    train(config, mix, whole, ALONE)
    with stopped_at(64):
        train(config, mix, broken, ALONE)
    train(config, mix, broken, ALONE)
    states = [load_tensors(folder.model_path)[0] for folder in (whole, broken)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert whole.read_log()[-1]["loss"] == broken.read_log()[-1]["loss"]
    assert whole.read_log()[-1]["source_effect"] == broken.read_log()[-1]["source_effect"] > 0


def test_every_use_draws_anew(mix, tmp_path, monkeypatch):
    """What reaches the loss: the same images at different steps are different draws."""
    seen = []
    clean = SourceMix.clean

    def noting(self, images, generator):
        drawn = clean(self, images, generator)
        seen.append((images.clone(), drawn.clone()))
        return drawn

    monkeypatch.setattr(SourceMix, "clean", noting)
    train(recipe(mix, "dm", batch=24, budget=72), SourceMix(mix.sources[0]), RunFolder(tmp_path / "run"), ALONE)
    orders = [stored.double().sum((1, 2, 3)).argsort() for stored, _ in seen]
    steps = [(stored[order], drawn[order]) for (stored, drawn), order in zip(seen, orders)]
    assert len(steps) == 3 and all(torch.equal(steps[0][0], stored) for stored, _ in steps), "an epoch a step"
    assert not torch.equal(steps[0][1], steps[1][1]) and not torch.equal(steps[1][1], steps[2][1])


@pytest.mark.parametrize("method", ["dm", "sda", "casd"])
def test_the_recipe_says_what_decodes(mix, tmp_path, method):
    config = recipe(mix, method)
    assert config.network.channels == 2 and config.network.resolution == 8
    folder = RunFolder(tmp_path / "run")
    train(config, METHODS[method]("tiny").training_mix(mix), folder, ALONE)
    assert folder.config() == config and folder.config().latents == SPACE
    assert read_json(folder.path / "config.json")["recipe"]["latents"]["vae"] == "vae"


def test_recipes_of_images_do_not_speak_of_latents():
    pictures = ImageSource("real", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), None, {"kind": "real"})
    config = recipe(SourceMix(pictures), "dm")
    assert "latents" not in config.to_dict() and RunConfig.from_dict(config.to_dict()) == config


def test_refusals(mix, tmp_path):
    with pytest.raises(UsageError, match="augmentations move pixels, and these are latents: pass --augment 0"):
        METHODS["dm"]("cifar10").recipe(mix)
    config = recipe(mix)
    pictures = ImageSource("real", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), None, {"kind": "real"})
    for wrong, says in (
        (SourceMix(pictures), "the data are images, the model is one of latents"),
        (SourceMix(source("real", 3, 0, replace(SPACE, std=(1.0, 1.0)))), "latents are of different scales"),
    ):
        with pytest.raises(UsageError, match=says):
            train(config, wrong, RunFolder(tmp_path / "run"), ALONE)
    with pytest.raises(UsageError, match="the data are latents, the model is one of images"):
        train(recipe(SourceMix(pictures), "dm"), mix, RunFolder(tmp_path / "run"), ALONE)
    assert not (tmp_path / "run").exists()


def test_presets_of_latents_take_them(mix):
    four = LatentSpace()
    at_64 = ImageSource("real", torch.zeros(2, 8, 64, 64).half(), None, {"kind": "real"}, four)
    for name in (name for name in PRESETS if name.startswith("imagenet512")):
        config = METHODS["dm"](name).recipe(SourceMix(at_64))
        assert (config.network.channels, config.network.resolution, config.sigma_data) == (4, 64, four.final_std)
    assert METHODS["dm"]("imagenet512-edm2-tiny").recipe(mix).network.resolution == 8
