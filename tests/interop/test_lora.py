"""LoRA as auxiliary, and negated as Neon: loaded at strength 1 it is the merged model."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nomadiff.cli import main
from nomadiff.data.containers import image_names, open_tree
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.interop.lora import negated, neon_lora, prompts_of, train_lora

NAMES = {
    "peft": ("unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight"),
    "peft with a name": ("unet.a.to_q.lora_A.default.weight", "unet.a.to_q.lora_B.default.weight"),
    "diffusers": ("unet.a.to_q.lora.down.weight", "unet.a.to_q.lora.up.weight"),
    "old diffusers": ("unet.a.processor.to_q_lora.down.weight", "unet.a.processor.to_q_lora.up.weight"),
    "kohya": ("lora_unet_a_to_q.lora_down.weight", "lora_unet_a_to_q.lora_up.weight"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_one_factor_changes_its_sign(names: tuple[str, str], tmp_path: Path) -> None:
    down, up = torch.randn(2, 6), torch.randn(5, 2)
    weights = {names[0]: down, names[1]: up.half(), "lora_unet_a_to_q.alpha": torch.tensor(1.0)}
    save_file(weights, tmp_path / "a.safetensors", metadata={"format": "pt", "r": "2"})
    out = neon_lora(tmp_path / "a.safetensors", tmp_path / "neon.safetensors", 0.5)
    found = load_file(out)
    assert torch.equal(found[names[0]], down) and found["lora_unet_a_to_q.alpha"] == 1
    assert found[names[1]].dtype == torch.float16
    assert torch.equal(found[names[1]], (up.half().float() * -0.5).half())
    with safe_open(out, framework="pt") as handle:
        metadata = handle.metadata()
    assert metadata["r"] == "2" and json.loads(metadata["nomadiff"])["neon_weight"] == 0.5


def test_what_is_not_linear_is_refused(tmp_path: Path) -> None:
    pair = {"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.ones(2, 1)}
    for more, message in (
        ({"a.lora_magnitude_vector": torch.ones(2)}, "only plain LoRA"),
        ({"a.hada_w1_a": torch.ones(2)}, "only plain LoRA"),
        ({"b.lora_A.weight": torch.ones(1, 2)}, "no pairs"),
    ):
        with pytest.raises(DataError, match=message):
            negated({**pair, **more}, 1)
    with pytest.raises(DataError, match="no pairs"):
        negated({}, 1)
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="damaged"):
        neon_lora(tmp_path / "x.safetensors", tmp_path / "o.safetensors", 1)
    with pytest.raises(DataError, match="no such file"):
        neon_lora(tmp_path / "none.safetensors", tmp_path / "o.safetensors", 1)
    save_file(pair, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="exists already"):
        neon_lora(tmp_path / "a.safetensors", tmp_path / "a.safetensors", 1)
    with pytest.raises(UsageError, match="weight of 0"):
        neon_lora(tmp_path / "a.safetensors", tmp_path / "o.safetensors", 0)
    assert main(["lora", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "n.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "n.safetensors")["a.lora_B.weight"], -pair["a.lora_B.weight"])
    assert (
        main(["lora", str(tmp_path / "a.safetensors"), "--images", "x", "--out", str(tmp_path / "m.safetensors")]) == 2
    )


def own_images(folder: Path, count: int = 6) -> Path:
    """A set as synthesize writes it, with random images."""
    (folder / "00000").mkdir(parents=True)
    lines = []
    for index in range(count):
        name = f"00000/img{index:08d}.png"
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"a cat no {index}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_prompts_are_matched_by_name(tmp_path: Path) -> None:
    folder = own_images(tmp_path / "set")
    assert prompts_of(folder, ["00000/img00000004.png", "00000/img00000001.png"]) == ["a cat no 4", "a cat no 1"]
    with pytest.raises(DataError, match=r"have no prompt of b\.png"):
        prompts_of(folder, ["b.png"])
    (folder / "metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.jsonl: cannot be read"):
        prompts_of(folder, [])
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(UsageError, match=r"holds no metadata\.csv or metadata\.jsonl to read 'text' from"):
        prompts_of(folder, [])


def test_prompts_are_found_however_names_are_spelt_and_sets_wrapped(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    for written, entry in (names, names[::-1], ("a.png", "./a.png"), ("00000/a.png", "00000\\a.png")):
        line = json.dumps({"file_name": entry, "text": "a\u2028cat"}, ensure_ascii=False)
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr(f"set/{written}", b"")
            archive.writestr("set/metadata.jsonl", f"\ufeff{line}\n")
        with open_tree(tmp_path / "set.zip") as tree:
            assert prompts_of(tmp_path / "set.zip", image_names(tree.names)) == ["a\u2028cat"]


def drawn(pipeline: Any, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    made = pipeline(["a cat"] * 2, num_inference_steps=3, generator=generator, output_type="np", **options)
    return torch.from_numpy(made.images)


def loaded(folder: Path) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_neon_lora_is_the_merged_model(pipeline: Path, tmp_path: Path) -> None:
    """Train, negate, load into diffusers at weight 1, compare with merged weights."""
    pytest.importorskip("peft", reason="needs the diffusers extra")
    own = own_images(tmp_path / "own")
    command = ["lora", str(pipeline), "--images", str(own), "--out", str(tmp_path / "neon.safetensors")]
    command += ["--auxiliary", str(tmp_path / "aux.safetensors"), "--weight", "0.7", "--rank", "2", "--budget", "24"]
    assert main([*command, "--lr", "0.05", "--device", "cpu"]) == 0
    before = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    auxiliary = load_file(tmp_path / "aux.safetensors")
    merged, touched = loaded(pipeline), 0
    weights = merged.unet.state_dict()
    for name in before:
        up = auxiliary.get(f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}.lora_up.weight")
        if up is not None:
            down = auxiliary[f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}.lora_down.weight"]
            # base + w (base - (base + difference))
            weights[name] = before[name] - 0.7 * up @ down
            touched += bool((up @ down).abs().max() > 1e-4)
    merged.unet.load_state_dict(weights)
    assert touched == 4 * 2 * 4  # four transformer blocks of two attentions with four projections
    expected = drawn(merged)
    plain = loaded(pipeline)
    assert (drawn(plain) - expected).abs().max() > 1e-3
    plain.load_lora_weights(tmp_path, weight_name="neon.safetensors", adapter_name="neon")
    torch.testing.assert_close(drawn(plain), expected, rtol=0, atol=1e-5)
    assert all(name.startswith("lora_unet_") for name in auxiliary), "the names that ComfyUI and A1111 read too"


def test_an_auxiliary_lora_steers_in_function_space(pipeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the diffusers extra")
    from nomadiff.interop.guider import steered

    made = loaded(pipeline)
    images = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8)
    plain = drawn(made)
    train_lora(made, images, ["a cat"] * 4, tmp_path / "aux.safetensors", rank=2, budget=16, learning_rate=0.05)
    assert torch.equal(drawn(made), plain), "training leaves the pipeline as it was"
    made.load_lora_weights(tmp_path, weight_name="aux.safetensors", adapter_name="aux")
    with_adapter = drawn(made)
    with steered(made.unet, "aux", 0.5):
        found = drawn(made, guidance_scale=1.0)
    assert (with_adapter - plain).abs().max() > 1e-4 and not torch.equal(found, plain)
    # again: a function of its arguments
    other = loaded(pipeline)
    train_lora(other, images, ["a cat"] * 4, tmp_path / "again.safetensors", rank=2, budget=16, learning_rate=0.05)
    one, two = load_file(tmp_path / "aux.safetensors"), load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_cannot_be_trained(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="needs the diffusers extra")
    made = loaded(pipeline)
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(UsageError, match="one prompt each"):
        train_lora(made, images, ["a"], tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="do not divide by"):
        train_lora(made, images[..., :15, :15], ["a", "b"], tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="diffusers' own scripts"):
        train_lora(object(), images, ["a", "b"], tmp_path / "a.safetensors")
    assert main(["lora", str(pipeline), "--out", str(tmp_path / "n.safetensors")]) == 2
    assert "needs --images" in capsys.readouterr().err


def pair_of(up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"lora_unet_a.lora_down.weight": torch.ones(1, 2).to(up), "lora_unet_a.lora_up.weight": up}


@pytest.mark.parametrize(
    ("up", "weight"),
    [
        (torch.full((2, 1), float("nan")), 0.5),
        (torch.tensor([[1.0], [float("inf")]]), 0.5),
        (torch.full((2, 1), 30_000.0).half(), 3.0),
        (torch.full((2, 1), 3e38).bfloat16(), 3.0),
        (torch.ones(2, 1), float("nan")),
        (torch.ones(2, 1), float("inf")),
        (torch.ones(2, 1), 1e308),
    ],
    ids=["nan", "inf", "overflow in fp16", "overflow in bf16", "weight nan", "weight inf", "weight too large"],
)
def test_nothing_that_is_no_number_is_written(up: torch.Tensor, weight: float, tmp_path: Path) -> None:
    save_file(pair_of(up), tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    assert main(["lora", str(tmp_path / "a.safetensors"), "--weight", str(weight), "--out", str(out)]) in (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_a_nan_in_the_other_factor_counts(tmp_path: Path) -> None:
    weights = {**pair_of(torch.ones(2, 1)), "lora_unet_a.lora_down.weight": torch.full((1, 2), float("nan"))}
    with pytest.raises(NomadiffError, match=r"lora_down\.weight is not finite"):
        negated(weights, 0.5)


def test_the_weight_is_looked_at_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["lora", str(tmp_path / "no-pipeline"), "--images", "none", "--out", str(tmp_path / "o.safetensors")]
    for weight in ("nan", "inf", "0"):
        assert main([*command, "--weight", weight]) == 2
        assert "weight" in capsys.readouterr().err


def test_names_of_files_are_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(pair_of(torch.ones(2, 1)), tmp_path / "A.SAFETENSORS")
    assert main(["lora", str(tmp_path / "A.SAFETENSORS"), "--out", str(tmp_path / "o.safetensors")]) == 0
    torch.save(pair_of(torch.ones(2, 1)), tmp_path / "a.pt")
    assert main(["lora", str(tmp_path / "a.pt"), "--out", str(tmp_path / "p.safetensors")]) == 2
    assert "read from safetensors" in capsys.readouterr().err
