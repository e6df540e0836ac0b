"""Exported models are whole, say what they are, and draw the same images wherever they are loaded."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nomadiff.cli import main
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.files import read_json, write_json
from nomadiff.interop.cards import LICENCE_TEXT
from nomadiff.interop.export import export_model, push_to_hub
from nomadiff.interop.importing import import_model
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.tables import Table

Make = Callable[..., tuple[nn.Module, dict[str, Any]]]
METRICS = Table(
    [{"metric": "fd_digits", "value": 1.25, "low": 1.0, "high": 1.5}, {"metric": "recall", "value": 0.5}],
    {"count": 1000, "reference_count": 500, "detector": "digits", "reference_sha256": "abc"},
)


@pytest.fixture
def models(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> Callable[..., Model]:
    """Makes imported models; ``guided`` ones of two of them."""
    torch.set_num_threads(1)

    def make(name: str, seed: int = 0, classes: int = 0) -> Model:
        network, arguments = tiny_network("ddpmpp", classes, seed)
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
        return import_model(path, tmp_path / name)

    return make


def guided(folder: Path, kind: str, base: Path, auxiliary: Path | None, **settings: Any) -> Model:
    folder.mkdir()
    auxiliary_path = None if auxiliary is None else f"../{auxiliary.name}/model.safetensors"
    GuidanceConfig(kind, 0.7, f"../{base.name}/model.safetensors", auxiliary_path, **settings).write(folder)
    return Model.load(folder, device="cpu")


def drawn(model: Model) -> torch.Tensor:
    """Three images, in two steps."""
    return model.sample(3, seed=5, sampler=replace(model.config.sampler, steps=2))


def same(one: Model, other: Model) -> None:
    assert torch.equal(drawn(one), drawn(other))


def test_a_single_model(models: Any, tmp_path: Path) -> None:
    model = models("base")
    out = export_model(model, tmp_path / "out", metrics=[METRICS])
    assert {entry.name for entry in out.iterdir()} == {"README.md", "config.json", "model.safetensors", "sources.json"}
    same(model, Model.load(out, device="cpu"))
    card = (out / "README.md").read_text()
    assert "| method | edm |" in card and "| fd_digits | 1.25 | 1 to 1.5 |" in card and "| recall | 0.5 |" in card
    assert "count 1000, reference count 500, detector digits, reference sha256 abc" in card
    assert "base.pkl" in card and model.sha256 in card
    assert "license" not in card and "images seen" not in card, "the file does not say how long it was trained"
    with pytest.raises(UsageError, match="exists already"):
        export_model(model, out)
    assert not list(tmp_path.glob(".export-*"))


@pytest.mark.parametrize("kind", ["extrapolation", "merge"])
def test_guided_models_take_their_parts_along(kind: str, models: Any, tmp_path: Path) -> None:
    models("base"), models("aux", seed=1)
    model = guided(tmp_path / "guided", kind, tmp_path / "base", tmp_path / "aux", method="sims")
    out = export_model(model, tmp_path / "out")
    for name in ("base", "aux", "guided"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")
    moved = out.rename(tmp_path / "moved")
    loaded = Model.load(moved, device="cpu")
    found = drawn(loaded)
    (tmp_path / "base-gone").rename(tmp_path / "base")
    (tmp_path / "aux-gone").rename(tmp_path / "aux")
    assert torch.equal(found, drawn(Model.load(tmp_path / "guided-gone", device="cpu")))
    assert (moved / "guidance.json").exists() == (kind == "extrapolation")
    card = (moved / "README.md").read_text()
    assert "weight 0.7" in card and "base.pkl" in card
    count = sum(parameter.numel() for parameter in model.parts[0].denoiser.parameters())
    assert f"{(2 if kind == 'extrapolation' else 1) * count / 1e6:,.2f} M parameters" in card


def test_guided_models_of_guided_models(models: Any, tmp_path: Path) -> None:
    models("base"), models("aux", seed=1)
    inner = guided(tmp_path / "inner", "extrapolation", tmp_path / "base", tmp_path / "aux")
    folder = tmp_path / "outer"
    folder.mkdir()
    GuidanceConfig("extrapolation", 0.3, "../inner", "../aux/model.safetensors").write(folder)
    outer = Model.load(folder, device="cpu")
    assert inner.guidance is not None
    out = export_model(outer, tmp_path / "out")
    same(outer, Model.load(out, device="cpu"))
    assert (out / "base" / "guidance.json").exists()


def test_terms_travel_along(models: Any, tmp_path: Path) -> None:
    models("base")
    path = tmp_path / "base" / "sources.json"
    sources = read_json(path)
    sources[0]["imported"]["licence"] = LICENCE_TEXT
    write_json(path, sources)
    card = (export_model(Model.load(tmp_path / "base", device="cpu"), tmp_path / "out") / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card and "non-commercial" in card


def test_synthetic_training_images_are_named(models: Any, tmp_path: Path) -> None:
    models("base")
    write_json(
        tmp_path / "base" / "sources.json",
        [
            {"label": 0, "name": "real", "kind": "real", "count": 1000, "spec": "photos"},
            {
                "label": 1,
                "name": "sdxl",
                "kind": "synthetic",
                "count": 5000,
                "spec": "gen.zip",
                "manifest": {"generator": "StableDiffusionXLPipeline"},
            },
        ],
    )
    card = (export_model(Model.load(tmp_path / "base", device="cpu"), tmp_path / "out") / "README.md").read_text()
    assert "trained with synthetic images (sdxl)" in card and "| training | 200,000,000 images seen |" in card
    assert "| 1 | sdxl | synthetic | 5,000 | gen.zip (made by StableDiffusionXLPipeline) |" in card


def test_the_verb(models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models("base")
    METRICS.write(tmp_path / "metrics.json")
    command = ["export", str(tmp_path / "base"), "--out", str(tmp_path / "out")]
    assert main([*command, "--metrics", str(tmp_path / "metrics.json")]) == 0
    assert "fd_digits" in (tmp_path / "out" / "README.md").read_text()
    assert main(["export", str(tmp_path / "base")]) == 2
    assert "--hub USER/NAME" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "other"), "--to", "onnx"]) == 2


def test_the_hub_gets_the_folder(models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> None:
            if repo_id == "me/broken":
                raise OSError("no route\nto the hub")
            calls.append((repo_id, sorted(entry.name for entry in Path(folder_path).iterdir())))

    hub = types.ModuleType("huggingface_hub")
    hub.HfApi = Api  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    model = models("base")
    assert push_to_hub(model, "me/model") == "https://huggingface.co/me/model"
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1] == ("me/model", ["README.md", "config.json", "model.safetensors", "sources.json"])
    with pytest.raises(NomadiffError, match=r"upload failed \(no route\)"):
        push_to_hub(model, "me/broken")
    with pytest.raises(UsageError, match="<user>/<name>"):
        push_to_hub(model, "model")


@pytest.mark.parametrize("kind", ["extrapolation", "merge", "perturbed-attention"])
@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_at_weight_0_the_base_goes_out(kind: str, form: str, models: Any, tmp_path: Path) -> None:
    """ "Keep the base model": one network, as if it had never been guided."""
    if form == "diffusers":
        pytest.importorskip("diffusers", reason="needs the diffusers extra")
    base = models("base")
    models("aux", seed=1)
    auxiliary = None if kind == "perturbed-attention" else "../aux"
    (tmp_path / "guided").mkdir()
    GuidanceConfig(kind, 0.0, "../base", auxiliary).write(tmp_path / "guided")
    out = export_model(Model.load(tmp_path / "guided", device="cpu"), tmp_path / "out", form=form)
    exported = out if form == "safetensors" else out / "model"
    assert not list(out.rglob("guidance.json")) and not list(out.rglob("auxiliary*"))
    same(base, Model.load(exported, device="cpu"))
    assert "| method | edm |" in (out / "README.md").read_text()


def test_a_pipeline_that_was_not_improved_goes_out_as_it_came(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    import_model(tmp_path / "pipe", tmp_path / "base")
    (tmp_path / "better").mkdir()
    GuidanceConfig("extrapolation", 0.0, "../base", "../base").write(tmp_path / "better")
    out = export_model(Model.load(tmp_path / "better", device="cpu"), tmp_path / "out", form="diffusers")
    assert read_json(out / "model_index.json")["_class_name"] == "DDPMPipeline"
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert len(modes) == 1 and modes != {0o600}, "weights that only their owner reads"


def test_tables_for_the_card(models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models("base")
    rows = [{"space": "function", "weight": 0.8, "budget": 32, "fd_digits": 1.0}]
    meta = {"sentence": "weight 0.8: +10 % gain", "evaluation": {"count": 100, "detector": "digits"}}
    Table(rows, meta).write(tmp_path / "improve.json")
    command = ["export", str(tmp_path / "base"), "--out", str(tmp_path / "out"), "--metrics"]
    assert main([*command, str(tmp_path / "improve.json")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "weight 0.8: +10 % gain." in card and "count 100, detector digits" in card
    for name, others in (("half.json", rows), ("empty.json", []), ("loop.json", [{"metric": "fd", "generation": 1}])):
        Table(others).write(tmp_path / name)
        assert main([*command[:3], str(tmp_path / "other"), "--metrics", str(tmp_path / name)]) == 2
        assert "a card shows what nomadiff evaluate" in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_scores_of_another_model_are_not_shown(models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = models("base"), models("other", seed=1)
    assert base.sha256 != other.sha256
    improved = {"sentence": "weight 0.8: +10 % gain", "command": "nomadiff improve other --out better"}
    rows = [{"set": name, "metric": "fd_digits", "value": value} for name, value in (("a", 1.5), ("b", 2.5))]
    both = {"a": base.sha256, "b": other.sha256}
    tables = {
        "mine": Table(METRICS.rows, {**METRICS.meta, "model_sha256": base.sha256}),
        "others": Table(METRICS.rows, {**METRICS.meta, "samples": "other.zip", "model_sha256": other.sha256}),
        "improve": Table([], {**improved, "model_sha256": other.sha256}),
        "several": Table(rows, {"count": {"a": 10, "b": 20}, "model_sha256": both}),
        "unknown": Table(rows, {"count": {"a": 10, "b": 20}, "samples": {"a": "a.zip", "b": "b.zip"}}),
    }
    for name, table in tables.items():
        table.write(tmp_path / f"{name}.json")

    def export(name: str) -> int:
        command = ["export", str(tmp_path / "base"), "--out", str(tmp_path / f"out-{name}")]
        return main([*command, "--metrics", str(tmp_path / f"{name}.json")])

    assert export("mine") == export("several") == 0
    card = (tmp_path / "out-several" / "README.md").read_text()
    assert "| fd_digits | 1.5 |" in card and "2.5" not in card and "count 10" in card
    for name, says in (
        ("others", "the scores are of another model (other.zip)"),
        ("improve", "the scores are of another model (nomadiff improve other --out better)"),
        ("unknown", "none of which is known to be of this model"),
    ):
        capsys.readouterr()
        assert export(name) == 2
        assert says in capsys.readouterr().err and not (tmp_path / f"out-{name}").exists()


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    from nomadiff.training.run_folder import save_tensors

    for value in (float("nan"), float("inf")):
        with pytest.raises(NomadiffError, match="b is not finite"):
            save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2), "b": torch.full((2,), value)}, {})
    assert not list(tmp_path.iterdir())
