"""Images that a model cannot be trained on: one check, before anything is drawn, written or trained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from factories import tiny_preset
from safetensors.torch import save_file

from nomadiff.data.image_source import ImageSource
from nomadiff.data.latents import LatentSpace
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.improve.distillation import distil
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.discriminator_guidance import train_discriminator
from nomadiff.methods.dm import DM
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.processes import join_processes
from nomadiff.training.fitting import Fitting
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder, load_tensors, save_tensors

PRESET = tiny_preset(steps=2, snapshot_every=64)


def source(channels: int = 1, side: int = 8, labels: torch.Tensor | None = None) -> ImageSource:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, channels, side, side), generator=generator, dtype=torch.uint8)
    return ImageSource("made", images, labels, {"kind": "synthetic"})


def latents() -> ImageSource:
    return ImageSource("made", torch.zeros(30, 4, 8, 8), None, {}, LatentSpace())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    DM(PRESET).fit(SourceMix(source()), path / "plain", device="cpu")
    DM(PRESET, class_labels=True).fit(SourceMix(source(labels=torch.arange(30) % 3)), path / "classes", device="cpu")
    return path


WRONG = [
    ("plain", source(side=16), "16x16 images, the model draws 8x8.*--resolution 8"),
    ("plain", source(channels=3), "made: images are RGB, the model's are grey"),
    ("plain", latents(), "the data are latents, the model is one of images"),
    ("classes", source(), "label|class"),
    ("classes", source(labels=torch.arange(30) % 4), "label|class"),
]


@pytest.mark.parametrize(("base", "images", "told"), WRONG)
def test_what_a_model_does_not_draw_is_refused_wherever_it_learns(base, images, told, root, tmp_path) -> None:
    model = Model.load(root / base, device="cpu")
    guided = Model.guided(GuidanceConfig("extrapolation", 1.0, "a", "b"), model, model, path=tmp_path / "guidance.json")
    out, options = tmp_path / "out", Fitting(budget=16, batch=16)
    calls = {
        "improve": lambda: improve(model, out, Improvement(weight=1.0), synthetic=images, device="cpu"),
        "distil": lambda: distil(guided, images, out, options),
        "train": lambda: train(model.config, SourceMix(images), RunFolder(out), join_processes("cpu")),
        "discriminator": lambda: train_discriminator(model, SourceMix(images), out / "d.safetensors", options),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=told):
            call()
        assert not out.exists(), name


@pytest.mark.parametrize("labels", [(0, 2, 5), (7, 7, 1000)])
def test_numbers_with_gaps_are_classes_like_others(labels, tmp_path) -> None:
    numbered = source(labels=torch.tensor(labels).repeat(10))
    model = DM(PRESET, class_labels=True).fit(SourceMix(numbered), tmp_path / "run", device="cpu")
    assert model.config.vocabulary == tuple(map(str, sorted(set(labels))))
    own = replace(numbered, labels=torch.tensor(labels[-1:]).repeat(30))
    train_discriminator(model, SourceMix(own), tmp_path / "d.safetensors", Fitting(budget=16, batch=16))
    unknown = replace(own, labels=torch.tensor([1]).repeat(30))  # within the model's class indices
    with pytest.raises(UsageError, match="have the class.* 1, the model knows"):
        improve(model, tmp_path / "out", Improvement(weight=1.0), synthetic=unknown, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, root, tmp_path) -> None:
    tensors, metadata = load_tensors(root / "plain" / "model.safetensors")
    name = sorted(name for name in tensors if tensors[name].ndim > 1)[0]
    tensors[name].flatten()[0] = value
    save_file(tensors, tmp_path / "model.safetensors", {"nomadiff": json.dumps(metadata)})
    with pytest.raises(DataError, match="finite"):
        Model.load(tmp_path / "model.safetensors", device="cpu")


def test_a_sigma_data_that_is_no_number_is_refused(root, tmp_path) -> None:
    tensors, metadata = load_tensors(root / "plain" / "model.safetensors")
    metadata["recipe"]["sigma_data"] = float("nan")
    save_tensors(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(DataError):
        Model.load(tmp_path / "model.safetensors", device="cpu")
