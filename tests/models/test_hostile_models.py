"""Hostile model files and folders: checked before they are built, one line of error each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.errors import DataError
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder, save_tensors
from nomadiff.training.settings import TrainingConfig
from nomadiff.workflows.info import describe

CONFIG = RunConfig(
    method="dm",
    network=NetworkConfig("ddpmpp", 8, 1, 8, (1,), 1, ()),
    training=TrainingConfig(budget=64, batch=32),
    sampler=SamplerConfig(steps=2),
    sigma_data=0.5,
    source_names=("real",),
    shares=(1.0,),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a model in it."""
    torch.manual_seed(0)
    folder = RunFolder(tmp_path / "run")
    folder.begin(CONFIG, [{"name": "real", "kind": "real", "spec": "x", "count": 3}])
    metadata = {"recipe": CONFIG.to_dict(), "images_seen": 64}
    save_tensors(folder.model_path, CONFIG.build_denoiser().state_dict(), metadata)
    (folder.path / "log.jsonl").write_text('{"images_seen": 64, "loss": 0.5}\n')
    return folder.path


def says(recipe: Any) -> dict[str, Any]:
    return {"recipe": recipe, "images_seen": 64}


def network(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda recipe: {**recipe, "network": {**recipe["network"], **values}}


UNET = {"unet": {"block_out_channels": [8, 8]}, "scheduler": {"_class_name": "DDPMScheduler"}}


def diffusers(part: str, **values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return network(architecture="unet2d", settings=json.dumps({**UNET, part: {**UNET[part], **values}}))


LYING = {
    "20,000 channels": network(model_channels=20_000),
    "8,000 channels": network(model_channels=8_000, channel_mult=[8, 8, 8, 8]),
    "a million blocks": network(blocks=1_000_000),
    "a thousand levels": network(channel_mult=[1] * 1000),
    "a factor of a million": network(channel_mult=[1_000_000]),
    "a huge embedding": network(channel_mult_embedding=1_000_000),
    "a huge augmentation": network(augment_dim=10**9),
    "a million classes": lambda recipe: {**recipe, "classes": 1_000_000},
    "a billion classes": lambda recipe: {**recipe, "classes": 10**9},
    "a billion sources": lambda recipe: {**recipe, "sources": 10**9},
    "a billion steps": lambda recipe: {**recipe, "sampler": {"steps": 10**9}},
    "no data": lambda recipe: {**recipe, "sigma_data": float("nan")},
    "text for a number": lambda recipe: {**recipe, "sigma_data": "x"},
    "names that are lists": lambda recipe: {**recipe, "source_names": [[1]]},
    "a name that commands": lambda recipe: {**recipe, "source_names": ["re\x1b[2Jal"]},
    "a diffusers network of a million layers": diffusers("unet", layers_per_block=1_000_000),
    "a diffusers network of wide layers": diffusers("unet", block_out_channels=[10**9]),
    "a diffusers network of many levels": diffusers("unet", block_out_channels=[32] * 5000),
    "a scheduler of 1e12 steps": diffusers("scheduler", num_train_timesteps=10**12),
    "settings that are no JSON": network(architecture="unet2d", settings="[" * 100_000),
    "settings that are a list": network(architecture="unet2d", settings="[]"),
    "no recipe": lambda recipe: None,
    "a list": lambda recipe: [recipe],
}


@pytest.mark.parametrize("which", LYING)
def test_a_recipe_that_lies_is_refused_before_it_is_built(which: str, run: Path) -> None:
    weights = run / "model.safetensors"
    tensors = CONFIG.build_denoiser().state_dict()
    save_tensors(weights, tensors, says(LYING[which](CONFIG.to_dict())))
    started = time.process_time()
    with pytest.raises(DataError) as caught:
        Model.load(weights, device="cpu")
    assert time.process_time() - started < 5
    assert str(weights) in str(caught.value) and str(caught.value).isprintable()


def test_metadata_of_any_shape(run: Path) -> None:
    from safetensors.torch import save_file

    for text in ("[" * 100_000, "null", "[]", "9" * 10_000, "{", '{"recipe": 5}', '{"recipe": {"network": []}}'):
        save_file({"x": torch.zeros(1)}, run / "model.safetensors", metadata={"nomadiff": text})
        with pytest.raises(DataError, match=r"model\.safetensors"):
            Model.load(run, device="cpu")


CONFIGS = ["[" * 100_000, "[1, 2]", "null", "", "{}", "9" * 5000, "\0\1", '{"recipe": "x"}', '{"recipe": null}']
CONFIGS += ['{"recipe": {"training": [1]}}', '{"recipe": ' + "[" * 5000 + "]" * 5000 + "}"]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_a_config_of_any_shape_is_one_line(number: int, run: Path) -> None:
    (run / "config.json").write_text(CONFIGS[number])
    with pytest.raises(DataError, match=r"config\.json: ") as caught:
        describe(str(run))
    assert str(caught.value).isprintable()


_ODD = b'{"images_seen": NaN, "loss": 1}\n{"images_seen": 1e999, "loss": 1}\n{"images_seen": 64, "loss": -Infinity}\n'


def test_a_fact_is_one_line_whatever_a_name_holds(run: Path, tmp_path: Path) -> None:
    """A line end in a name could forge a line of output."""
    forged = "x\nsha256:      good\u2028\x1b[2J"
    lines = len(describe(str(run)).splitlines())
    for where in ("name", "spec", "kind"):
        source = {"name": "real", "kind": "real", "spec": "x", "count": 3, where: forged}
        (run / "sources.json").write_text(json.dumps([source]))
        said = describe(str(run))
        assert len(said.splitlines()) == lines and said.replace("\n", "").isprintable()
    images = tmp_path / "images\nmade by:     nobody"
    images.mkdir()
    Image.new("L", (8, 8)).save(images / "a.png")
    (images / "manifest.json").write_text(json.dumps({"generator": forged, "seed": [forged], "source": {"a": forged}}))
    said = describe(str(images))
    assert len(said.splitlines()) == 5 and "generator x\\nsha256" in said
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 1), np.uint8), labels=[0, 1], class_names=[forged, "b"])
    assert len(describe(str(tmp_path / "a.npz")).splitlines()) == 5


def test_lines_of_a_log_that_are_none_are_left_out(run: Path) -> None:
    before = describe(str(run))
    with open(run / "log.jsonl", "ab") as log:
        log.write(
            b'5\n[]\n{"x": 1}\n"a"\nnull\n{"images_seen": "x", "loss": 1}\n' + _ODD + b"[" * 100_000 + b"\n\xff\xfe\n{"
        )
    assert describe(str(run)) == before
    RunFolder(run).trim_log(64)
    assert (run / "log.jsonl").read_text() == '{"images_seen": 64, "loss": 0.5}\n'


@pytest.mark.parametrize("text", ['[1, null, {"name": 5}]', '{"a": 1}', "null", "[" * 100_000, '["x"]'])
def test_sources_of_any_shape_are_one_line(text: str, run: Path) -> None:
    (run / "sources.json").write_text(text)
    with pytest.raises(DataError, match=r"sources\.json: "):
        describe(str(run))


def guide(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"kind": "extrapolation", "weight": 1.0, "base": "base", "auxiliary": "aux"}
    (folder / "guidance.json").write_text(json.dumps({**known, **values}))
    return folder


GUIDANCE: list[dict[str, Any]] = [
    {"base": 5},
    {"base": None},
    {"base": ["x"]},
    {"base": "a\0b"},
    {"base": "a" * 100_000},
    {"weight": "x"},
    {"weight": None},
    {"weight": 10**400},
    {"interval": "ab"},
    {"interval": [1, 2, 3]},
    {"interval": [2, 1]},
    {"interval": {"low": 1}},
    {"kind": ["x"]},
    {"kind": "source", "auxiliary": None, "source": "x"},
    {"source": 10**30},
    {"method": "\x1b]0;x\x07"},
    {"colour": "red"},
]


@pytest.mark.parametrize("number", range(len(GUIDANCE)))
def test_guidance_of_any_shape_is_one_line(number: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Model.load(guide(tmp_path / "g", **GUIDANCE[number]), device="cpu")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_guidance_that_is_no_table(tmp_path: Path) -> None:
    for text in ("[]", "null", "[" * 100_000, "9" * 5000, ""):
        (tmp_path / "guidance.json").write_text(text)
        with pytest.raises(DataError, match=r"guidance\.json: "):
            Model.load(tmp_path, device="cpu")


@pytest.mark.filterwarnings("ignore:base and auxiliary have identical weights")
def test_models_of_models_end(run: Path, tmp_path: Path) -> None:
    itself = guide(tmp_path / "itself", base=".", auxiliary=".")
    guide(tmp_path / "one", base="../other", auxiliary="../other")
    other = guide(tmp_path / "other", base="../one", auxiliary="../one")
    for number in range(18):  # every level uses the next one twice
        deeper = "../run" if number == 17 else f"../chain{number + 1}"
        guide(tmp_path / f"chain{number}", base=deeper, auxiliary=deeper)
    for folder in (itself, other, tmp_path / "chain0"):
        started = time.process_time()
        with pytest.raises(DataError, match="part of a model of more than 32, or of itself"):
            Model.load(folder, device="cpu")
        assert time.process_time() - started < 10
    assert len(Model.load(tmp_path / "chain15", device="cpu").parts) == 2  # eight networks are no bomb
    assert GuidanceConfig.read(tmp_path / "chain15").base == "../chain16"


def test_pipes_are_no_models(run: Path, tmp_path: Path) -> None:
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")
    with pytest.raises(DataError, match="not a regular file"):
        Model.load(run, device="cpu")
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    with pytest.raises(DataError, match="not a regular file"):
        RunFolder(run).config()
    with pytest.raises(DataError, match="not a regular file"):
        Model.load(guide(tmp_path / "g", base="/dev/zero"), device="cpu")


def test_honest_recipes_are_built(run: Path) -> None:
    weights = run / "model.safetensors"
    assert Model.load(run, device="cpu").sample(1).shape == (1, 1, 8, 8)
    lying = replace(CONFIG, network=replace(CONFIG.network, model_channels=16))
    save_tensors(weights, CONFIG.build_denoiser().state_dict(), says(lying.to_dict()))
    with pytest.raises(DataError, match=r"do not fit its recipe \(.* has shape .*, expected"):
        Model.load(run, device="cpu")
