"""Pipelines of diffusers come in, get better, and go out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json, write_json
from nomadiff.interop.export import export_model
from nomadiff.interop.importing import import_model
from nomadiff.methods.improve import improve
from nomadiff.methods.improvement import Improvement
from nomadiff.methods.model import Model

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")


def tiny_pipeline(path: Path, labels: int | None = None, **schedule: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=labels,
    )
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**schedule))
    pipeline.save_pretrained(path)
    return pipeline


def drawn(pipeline: Any) -> torch.Tensor:
    """Four images of a pipeline, three steps."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline(batch_size=4, generator=generator, num_inference_steps=3, output_type="pt").images


def test_in_improved_and_out_again(tmp_path: Path) -> None:
    """The proof of issue 6: import, improve, export, loaded by diffusers alone, same samples."""
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
    from nomadiff.methods.guided_model import GuidanceConfig

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
    found = pipeline(batch_size=3, seed=4, output_type="pt").images
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
    with pytest.raises(DataError, match="holds none of"):
        import_model(tmp_path / "pipe", tmp_path / "model")
