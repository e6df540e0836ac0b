"""A file that is no model is named correctly, with the command to use on it, and never with the advice to delete it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nomadiff.cli import main
from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.interop.importing import import_model
from nomadiff.models.foreign import require_images
from nomadiff.models.model import Model


def pipeline(folder: Path, unet: str = "UNet2DModel") -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"unet": ["diffusers", unet], "scheduler": ["diffusers", "X"]}))
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": unet}))
    return folder


@pytest.mark.parametrize("name", ["network-snapshot-200000.pkl", "state.pt", "model.ckpt", "net.mdlus", "weights.PTH"])
def test_weights_of_others_are_imported_first(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match=r"import them first \(nomadiff import") as caught:
        Model.load(tmp_path / name, device="cpu")
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("name", ["photos.npz", "photos.zip", "a.PNG"])
def test_images_are_no_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 3), "u1"))
    (tmp_path / "x.npz").rename(tmp_path / name)
    assert main(["sample", str(tmp_path / name), "--count", "2", "--out", str(tmp_path / "o.zip")]) == 1
    said = capsys.readouterr().err
    assert "set of images" in said and "delete" not in said
    assert (tmp_path / name).exists()


def test_folders_of_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, text = pipeline(tmp_path / "ddpm"), pipeline(tmp_path / "sd", "UNet2DConditionModel")
    for verb in (["info"], ["sample", "--count", "1", "--out", str(tmp_path / "o")]):
        assert main([*verb[:1], str(ours), *verb[1:]]) == 1
        assert "import it first (nomadiff import" in capsys.readouterr().err
    with pytest.raises(DataError, match="text-to-image.*synthesize"):
        Model.load(text, device="cpu")
    with pytest.raises(DataError, match="import it first"):
        require_images(str(ours))


@pytest.mark.parametrize("kind", ["accelerate", "unet_ema", "network"])
def test_networks_without_a_scheduler(kind: str, tmp_path: Path) -> None:
    """Checkpoints of diffusers' training scripts; beside them lies the pipeline, once training is over."""
    place = pipeline(tmp_path / "run") if kind != "network" else tmp_path / "run"
    network = place / "checkpoint-500" / "unet_ema"
    network.mkdir(parents=True)
    (network / "config.json").write_text(json.dumps({"_class_name": "EMAModel"}))
    asked = {"accelerate": network.parent, "unet_ema": network, "network": network}[kind]
    with pytest.raises(DataError, match="without a scheduler") as caught:
        import_model(asked, tmp_path / "o")
    assert str(network) in str(caught.value)
    assert ("a copy of" in str(caught.value)) == (kind != "network")
    with pytest.raises(DataError, match="without a scheduler"):
        Model.load(asked, device="cpu")


def test_safetensors_to_import(tmp_path: Path) -> None:
    save_file({"conv_in.weight": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(DataError, match="does not say what network"):
        import_model(tmp_path / "plain.safetensors", tmp_path / "o")
    torch.save({"conv_in.weight": torch.ones(2)}, tmp_path / "plain.bin")
    with pytest.raises(DataError, match="does not say what network"):
        import_model(tmp_path / "plain.bin", tmp_path / "o")
    save_file({"lora_unet_a.lora_up.weight": torch.ones(2)}, tmp_path / "l.safetensors")
    with pytest.raises(DataError, match="nomadiff lora"):
        import_model(tmp_path / "l.safetensors", tmp_path / "o")
    save_file({"a": torch.ones(2)}, tmp_path / "ours.safetensors", metadata={"nomadiff": "{}"})
    with pytest.raises(UsageError, match="already"):
        import_model(tmp_path / "ours.safetensors", tmp_path / "o")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"recipe": {}}))
    with pytest.raises(UsageError, match="already"):
        import_model(tmp_path / "run", tmp_path / "o")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a pipeline"):
        import_model(tmp_path / "empty", tmp_path / "o")
    with pytest.raises(DataError, match="draw some first"):
        require_images(str(tmp_path / "run"))


def test_extras_come_from_the_checkout() -> None:
    command = install_command("loops")
    assert "[loops]" in command and "nomadiff[loops]" not in command


def test_no_message_names_an_index() -> None:
    """nomadiff is on no package index: no message may tell a user to install it from one."""
    source = Path(__file__).parents[2] / "src" / "nomadiff"
    told = [
        path.name
        for path in source.rglob("*.*")
        if path.suffix in (".py", ".txt") and "install 'nomadiff" in path.read_text()
    ]
    assert not told
