"""Pipelines of diffusers are imported, improved and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nomadiff.cli import main
from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json, write_json
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.interop.export import export_model
from nomadiff.interop.importing import import_model
from nomadiff.models import drawable
from nomadiff.models.model import Model

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")


def tiny_pipeline(
    path: Path, labels: int | None = None, scheduler: Any = None, channels: Any = (3, 3), **schedule: Any
) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=channels[0],
        out_channels=channels[1],
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=labels,
    )
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=scheduler or diffusers.DDPMScheduler(**schedule))
    pipeline.save_pretrained(path)
    return pipeline


def drawn(pipeline: Any) -> torch.Tensor:
    """Four images of a pipeline, three steps."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    images = pipeline(batch_size=4, generator=generator, num_inference_steps=3, output_type="np").images
    return torch.from_numpy(images)  # the oldest diffusers here gives arrays whatever is asked for


@pytest.mark.slow
def test_in_improved_and_out_again(tmp_path: Path) -> None:
    """Import, improve, export, loaded by diffusers alone: same samples."""
    tiny_pipeline(tmp_path / "pipe")
    base = import_model(tmp_path / "pipe", tmp_path / "base")
    assert base.config.sampler.sigma_max == pytest.approx(157.4, abs=0.1)
    settings = Improvement(
        weight=0.8, space="parameters", synthetic_count=16, budget=32, snapshots=1, learning_rate=1e-3
    )
    better = improve(base, tmp_path / "better", settings, device="cpu").model
    export_model(better, tmp_path / "out", form="diffusers")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    again = import_model(tmp_path / "out", tmp_path / "again")
    assert torch.equal(again.sample(2, seed=1), better.sample(2, seed=1))
    # the network inside, in diffusers' own sampler
    inside = better.network.network.unet
    rebuilt = diffusers.DDPMPipeline(unet=inside, scheduler=diffusers.DDPMScheduler())
    torch.testing.assert_close(drawn(pipeline), drawn(rebuilt), rtol=0, atol=1e-5)
    original = diffusers.DDPMPipeline.from_pretrained(tmp_path / "pipe")
    assert (drawn(pipeline) - drawn(original)).abs().max() > 1e-4, "improving must have changed it"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "DDPMPipeline.from_pretrained" in card and "| method | neon |" in card


def test_in_and_out_changes_nothing(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "pipe", prediction_type="v_prediction", beta_schedule="scaled_linear")
    export_model(import_model(tmp_path / "pipe", tmp_path / "model"), tmp_path / "out", form="diffusers")
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(drawn(loaded), drawn(pipeline), rtol=0, atol=1e-6)


def test_class_labels_come_along(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "pipe", labels=4)
    model = import_model(tmp_path / "pipe", tmp_path / "model")
    assert model.config.classes == 4
    assert not torch.equal(model.sample(1, class_label=0), model.sample(1, class_label=3))
    sources = import_model(tmp_path / "pipe", tmp_path / "casd", sources=("real", "a", "b", "c"))
    assert sources.config.sources == 4


@pytest.mark.parametrize("sources", [(), ("real", "a", "b", "c")])
def test_what_takes_labels_goes_out_as_a_pipeline_that_draws(
    sources: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DDPMPipeline gives no labels to its network, which asks for them."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    tiny_pipeline(tmp_path / "pipe", labels=4)
    model = import_model(tmp_path / "pipe", tmp_path / "model", sources=sources)
    out = export_model(model, tmp_path / "out", form="diffusers")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    choice = {"source": "b"} if sources else {"class_labels": 1}
    found = pipeline(batch_size=2, seed=4, num_inference_steps=3, output_type="pt", **choice).images
    chosen = {"source": "b"} if sources else {"class_label": 1}
    expected = model.sample(2, 4, sampler=replace(model.config.sampler, steps=3), **chosen)
    assert torch.equal((found * 255).round().to(torch.uint8), expected)


def test_old_files_are_understood(tmp_path: Path) -> None:
    """Pickled weights, and attention as it was called and shaped once."""
    pipeline = tiny_pipeline(tmp_path / "pipe")
    expected = import_model(tmp_path / "pipe", tmp_path / "new").sample(1)
    (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    weights = {}
    for name, value in pipeline.unet.state_dict().items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{new}.weight" in name:
                value = value[:, :, None, None]
            name = name.replace(f".{new}.", f".{old}.")
        weights[name] = value
    torch.save(weights, tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.bin")
    assert torch.equal(import_model(tmp_path / "pipe", tmp_path / "old").sample(1), expected)


@pytest.mark.parametrize("kind", ["single", "guided"])
def test_any_model_becomes_a_pipeline(
    kind: str, lookalikes: Any, tiny_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nomadiff.models.guided_model import GuidanceConfig

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    for name, seed in (("base", 0), ("aux", 1)):
        network, arguments = tiny_network("ddpmpp", 3, seed)
        (tmp_path / f"{name}.pkl").write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
        import_model(tmp_path / f"{name}.pkl", tmp_path / name)
    model = Model.load(tmp_path / "base", device="cpu")
    if kind == "guided":
        (tmp_path / "guided").mkdir()
        GuidanceConfig("extrapolation", 0.5, "../base", "../aux").write(tmp_path / "guided")
        model = Model.load(tmp_path / "guided", device="cpu")
    out = export_model(model, tmp_path / "out", form="diffusers")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    asked, resolved = [], drawable.drawing_precision
    monkeypatch.setattr(
        drawable, "drawing_precision", lambda precision, *rest: asked.append(precision) or resolved(precision, *rest)
    )
    found = pipeline(batch_size=3, seed=4, output_type="pt").images
    assert set(asked) == {"fp32"}  # "auto" may be another one on another machine
    assert torch.equal((found * 255).round().to(torch.uint8), model.sample(3, 4))
    chosen = pipeline(batch_size=2, generator=torch.Generator().manual_seed(4), class_labels=1, num_inference_steps=4)
    assert chosen.images[0].size == (8, 8)


def test_other_pipelines_are_named(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "pipe")
    index = read_json(tmp_path / "pipe" / "model_index.json")
    other = {**index, "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    write_json(tmp_path / "pipe" / "model_index.json", other)
    with pytest.raises(DataError, match="holds a StableDiffusionPipeline; .*nomadiff synthesize"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    write_json(tmp_path / "pipe" / "model_index.json", index)
    with pytest.raises(UsageError, match="EDM2 snapshots"):
        import_model(tmp_path / "pipe", tmp_path / "model", std=0.1)
    unet = tmp_path / "pipe" / "unet" / "config.json"
    settings = read_json(unet)
    for change, message in (
        ({"sample_size": None}, "no square sample_size"),
        ({"sample_size": [8, 16]}, "no square sample_size"),
        ({"block_out_channels": None}, "no block_out_channels"),
        ({"block_out_channels": [8, 24]}, "do not fit"),
        ({"down_block_types": ["Nonsense", "Nonsense"]}, "cannot build"),
        ({"time_embedding_type": "fourier"}, "positional"),
    ):
        write_json(unet, {**settings, **change})
        with pytest.raises((DataError, UsageError), match=message):
            import_model(tmp_path / "pipe", tmp_path / "model")
    write_json(unet, settings)
    weights = tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    weights.unlink()
    with pytest.raises(DataError, match="unet/ holds no weights"):
        import_model(tmp_path / "pipe", tmp_path / "model")


@pytest.mark.parametrize("name", ["EDMEuler", "FlowMatchEulerDiscrete", "ScoreSdeVe"])
def test_schedulers_of_other_families_come_in(name: str, tmp_path: Path) -> None:
    """What each asks of a network is proved in tests/networks/test_schedules.py; here the way in and out."""
    tiny_pipeline(tmp_path / "pipe", scheduler=getattr(diffusers, f"{name}Scheduler")())
    model = import_model(tmp_path / "pipe", tmp_path / "model")
    assert model.sample(2).shape == (2, 3, 8, 8)
    # a DDPMPipeline would sample it wrongly: it goes out with the class that samples it right
    out = export_model(model, tmp_path / "out", form="diffusers")
    assert read_json(out / "model_index.json")["_class_name"] == ["pipeline", "NomadiffPipeline"]


def test_a_network_of_nothing_is_edms_skip(tmp_path: Path) -> None:
    """The case: an output of 0 means c_skip x to EDM, and x itself to DDPM."""
    pipeline = tiny_pipeline(tmp_path / "pipe", scheduler=diffusers.EDMEulerScheduler())
    torch.nn.init.zeros_(pipeline.unet.conv_out.weight)
    torch.nn.init.zeros_(pipeline.unet.conv_out.bias)
    pipeline.save_pretrained(tmp_path / "zero")
    denoiser = import_model(tmp_path / "zero", tmp_path / "model").denoiser
    for sigma in (0.5, 2.0, 80.0):
        found = denoiser(torch.ones(1, 3, 8, 8), torch.tensor(sigma))
        assert found.mean().item() == pytest.approx(0.25 / (sigma**2 + 0.25), rel=1e-3)


def test_the_index_names_the_scheduler(tmp_path: Path) -> None:
    """diffusers makes the class of model_index.json, whatever the scheduler's own file was saved from."""
    tiny_pipeline(tmp_path / "pipe")
    index = read_json(tmp_path / "pipe" / "model_index.json")
    write_json(tmp_path / "pipe" / "model_index.json", {**index, "scheduler": ["diffusers", "LCMScheduler"]})
    with pytest.raises(DataError, match="LCMScheduler"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    write_json(tmp_path / "pipe" / "model_index.json", {**index, "vqvae": ["diffusers", "VQModel"]})
    with pytest.raises(DataError, match="has vqvae beside"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["CMStochasticIterative", "TCD", "IPNDM"])
def test_other_schedulers_are_refused_by_name(name: str, tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "pipe", scheduler=getattr(diffusers, f"{name}Scheduler")())
    with pytest.raises(DataError, match=f"{name}Scheduler"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("channels", [(3, 1), (6, 3), (3, 6), (1, 3), (4, 3)])
def test_channels_that_do_not_match_are_refused(channels: tuple[int, int], tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "pipe", channels=channels)
    with pytest.raises(DataError, match=f"takes {channels[0]} channels and gives {channels[1]}"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_learned_variance_is_known_by_its_scheduler(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "pipe", channels=(3, 6), variance_type="learned_range")
    assert import_model(tmp_path / "pipe", tmp_path / "model").sample(1).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("options", [
    {"variant": "fp16"}, {"max_shard_size": "20KB"}, {"variant": "fp16", "max_shard_size": "20KB"},
    {"safe_serialization": False}, {"safe_serialization": False, "max_shard_size": "20KB"},
], ids=["variant", "shards", "variant in shards", "pickle", "pickle in shards"])  # fmt: skip
def test_weights_in_all_their_forms(options: dict[str, Any], tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "pipe")
    expected = import_model(tmp_path / "pipe", tmp_path / "whole").sample(1)
    (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pipeline.unet.save_pretrained(tmp_path / "pipe" / "unet", **options)
    assert not (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    if "max_shard_size" in options:
        assert len(list((tmp_path / "pipe" / "unet").glob("*-of-*"))) > 1
    assert torch.equal(import_model(tmp_path / "pipe", tmp_path / "model").sample(1), expected)


def test_shards_that_are_not_there_and_pointers_are_named(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "pipe")
    unet = tmp_path / "pipe" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(DataError, match="git lfs pull"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    pipeline.unet.save_pretrained(unet, max_shard_size="20KB")
    next(unet.glob("*-of-*")).unlink()
    with pytest.raises(DataError, match="incomplete"):
        import_model(tmp_path / "pipe", tmp_path / "model")
    write_json(unet / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": {"a": "../../secret"}})
    with pytest.raises(DataError, match="no index of shards"):
        import_model(tmp_path / "pipe", tmp_path / "model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_what_wrappers_put_before_names_comes_off(prefix: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_pipeline(tmp_path / "pipe")
    expected = import_model(tmp_path / "pipe", tmp_path / "plain").sample(1)
    file = tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({f"{prefix}{name}": value for name, value in load_file(file).items()}, file)
    assert torch.equal(import_model(tmp_path / "pipe", tmp_path / "model").sample(1), expected)


@pytest.mark.parametrize("name", ["EulerDiscrete", "PNDM", "DDIM"])
def test_what_goes_out_is_sampled_right(name: str, tmp_path: Path) -> None:
    """A DDPMPipeline neither scales for Euler's solver nor knows PNDM's step: such networks go out with DDPM's."""
    tiny_pipeline(tmp_path / "pipe", scheduler=getattr(diffusers, f"{name}Scheduler")(beta_end=0.015))
    export_model(import_model(tmp_path / "pipe", tmp_path / "model"), tmp_path / "out", form="diffusers")
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    assert type(loaded.scheduler).__name__ == ("DDIMScheduler" if name == "DDIM" else "DDPMScheduler")
    assert loaded.scheduler.config.beta_end == 0.015
    assert torch.isfinite(drawn(loaded)).all()


@pytest.mark.slow
def test_a_pipeline_is_improved_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is imported beside the result, once; another pipeline's result gets another base."""
    tiny_pipeline(tmp_path / "pipe")
    options = ["--weight", "0.5", "--synthetic-count", "8", "--budget", "16", "--device", "cpu"]
    command = ["improve", str(tmp_path / "pipe"), *options, "--out", str(tmp_path / "better")]
    for imports in (1, 0):
        assert main(command) == 0, capsys.readouterr().err
        assert capsys.readouterr().err.count("imported ") == imports
    (base,) = tmp_path.glob("better-base-*")
    inside, imported = Model.load(tmp_path / "better", device="cpu").parts[0], Model.load(base, device="cpu")
    assert isinstance(inside, Model) and inside.sample(2, 0).equal(imported.sample(2, 0))
    pipeline = tiny_pipeline(tmp_path / "pipe")
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1
    pipeline.save_pretrained(tmp_path / "pipe")
    assert main(command) == 2, "a folder of another base is refused"
    assert len(list(tmp_path.glob("better-base-*"))) == 2
