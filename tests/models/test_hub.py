"""``Model.load("hf:user/name")``: what export pushes comes back; nothing else is fetched, nothing is run."""

import fnmatch
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.digits import read_digits
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.interop.export import push_to_hub
from nomadiff.methods.dm import DM
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model, as_model
from nomadiff.models.provenance import origins
from nomadiff.sampling.sampler import SamplerConfig

FEW = SamplerConfig(steps=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Model:
    real = ImageSource.from_array(read_digits("digits:pool").images[:32], name="real", synthetic=False)
    method = DM("digits", budget=16, batch=16, warmup=16)
    return method.fit(SourceMix(real), tmp_path_factory.mktemp("run") / "base", device="cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in a folder; what is fetched from it is a copy, as huggingface_hub's cache is."""
    module = types.ModuleType("huggingface_hub")
    place = tmp_path / "hub"

    class Api:
        def create_repo(self, name, **options):
            (place / name).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, **options):
            shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)

    def snapshot_download(name, *, revision=None, allow_patterns):
        if revision == "offline":
            raise OSError("no route\nto the hub")
        if not (place / name).is_dir():
            raise FileNotFoundError(f"404: {name}")
        copy = tmp_path / "cache" / name
        for path in (place / name).rglob("*"):
            if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                (copy / path.relative_to(place / name)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / path.relative_to(place / name))
        return str(copy)

    module.HfApi, module.snapshot_download = Api, snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return place


def test_a_model_goes_there_and_back(base, hub):
    push_to_hub(base, "me/model")
    (hub / "me" / "model" / "evil.py").write_text("raise SystemExit")
    again = Model.load("hf:me/model", device="cpu")
    assert torch.equal(again.sample(3, sampler=FEW), base.sample(3, sampler=FEW)) and again.sha256 == base.sha256
    assert origins(again) == origins(base) and not list(again.path.parent.glob("*.py"))
    assert as_model(Path("hf:me/model"), "improve", torch.device("cpu")).sha256 == base.sha256
    assert 'nd.Model.load("hf:me/model")' in (hub / "me" / "model" / "README.md").read_text()


def test_a_guided_model_goes_there_and_back(base, hub):
    guidance = GuidanceConfig("perturbed-attention", 1.0, "base")
    guided = Model.guided(guidance, base)
    push_to_hub(guided, "me/guided")
    again = Model.load("hf:me/guided@main", device="cpu")
    assert again.guidance.kind == "perturbed-attention"
    assert torch.equal(again.sample(2, sampler=FEW), guided.sample(2, sampler=FEW))


def test_a_pipeline_comes_back_as_the_model_in_it(base, hub):
    push_to_hub(base, "me/pipeline")
    folder = hub / "me" / "pipeline"
    for path in list(folder.iterdir()):
        (folder / "model").mkdir(exist_ok=True)
        path.rename(folder / "model" / path.name)
    (folder / "model_index.json").write_text('{"_class_name": ["pipeline", "NomadiffPipeline"]}')
    assert Model.load("hf:me/pipeline", device="cpu").sha256 == base.sha256


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("UNet2DModel", "a pipeline of diffusers: import it first (nomadiff import hf:me/other --out MODEL)"),
        ("UNet2DConditionModel", "a text-to-image pipeline of diffusers: see nomadiff synthesize --from hf:me/other "),
    ],
)
def test_a_pipeline_of_diffusers_is_named_before_its_weights_are_fetched(network, says, hub, tmp_path):
    (hub / "me" / "other" / "unet").mkdir(parents=True)
    (hub / "me" / "other" / "model_index.json").write_text(f'{{"unet": ["diffusers", "{network}"]}}')
    (hub / "me" / "other" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"gigabytes")
    with pytest.raises(DataError, match=re.escape(f"hf:me/other: {says}")):
        Model.load("hf:me/other", device="cpu")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_synthesize_takes_models_of_the_hub(base, hub, tmp_path, capsys):
    """Only prompts say that a name of the hub is a text-to-image pipeline: it asked for them whatever it was."""
    push_to_hub(base, "me/model")
    command = ["synthesize", "--from", "hf:me/model", "--count", "2", "--steps", "2", "--device", "cpu", "--out"]
    command += [str(tmp_path / "own.zip")]
    assert main(command) == 0
    own = ImageSource.open(tmp_path / "own.zip", name="own", synthetic=True)
    assert torch.equal(own.pixels, base.sample(2, sampler=replace(base.config.sampler, steps=2)))
    assert main([*command, "--prompts", "faces", "--dry-run"]) == 0
    assert "prompts: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("hf:me/model@offline", DataError, r"^hf:me/model@offline: cannot be fetched \(no route\)[^\n]*$"),
        ("hf:me/nothing", DataError, r"^hf:me/nothing: cannot be fetched \(404: me/nothing\)[^\n]*$"),
        ("hf:model", UsageError, "hf:<user>/<name>"),
        ("hf:../../etc/x", UsageError, "hf:<user>/<name>"),
        ("hf:", UsageError, "hf:<user>/<name>"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(spec, error, says, hub):
    with pytest.raises(error, match=says):
        Model.load(spec, device="cpu")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="needs an extra"):
        Model.load("hf:me/model")
