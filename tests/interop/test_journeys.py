"""The commands of docs/journeys run: every block marked ``run``, in order, at sizes that take seconds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.writing import write_images
from nomadiff.models.model import Model
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig

PAGES = Path(__file__).parents[2] / "docs" / "journeys"

# what a page says, and what is run instead: sizes, files that cannot be had here, and nothing else
SMALLER = [
    (r"torchrun .* -m nomadiff", "nomadiff"),  # two processes: tests/cli/test_two_processes.py
    (r"--count \S+", "--count 40"),
    (r"--synthetic-count \S+", "--synthetic-count 16"),
    (r"--budget \S+", "--budget 32"),
    (r"--resolution \d+", "--resolution 16"),
    (r"--preset ffhq64", "--preset tiny"),
    (r"--preset imagenet512-edm2-xs", "--preset imagenet512-edm2-tiny"),
    (r"--detector inception", "--detector pixels"),
    (r"hf:(stabilityai|stable-diffusion-v1-5)/\S+", "PIPELINE"),
    (r"import edm-cifar10-uncond-vp", "import edm.pkl"),
    (r"import edm2-img512-s", "import edm2.pkl"),
    (r"cifar10-32x32\.npz", "held-out"),
    # what a small run needs that a large one does not say
    (r"(nomadiff (train|compare) .*)", r"\1 --batch 16 --warmup 16"),
    (r"(nomadiff compare .*)", r"\1 --seeds 0 --workers 1 --count 40"),
    (r"(nomadiff (sample|synthesize) .*)", r"\1 --steps 2"),
    (r"(nomadiff lora .*--images .*)", r"\1 --budget 8 --rank 2"),
    (r"(nomadiff encode (?!.*--like).*)", r"\1 --vae VAE"),
    (r"(nomadiff (train|compare|sample|synthesize|evaluate|improve|encode|lora .*--images) .*)", r"\1 --device cpu"),
]


def blocks(page: str, language: str = "sh") -> list[str]:
    return re.findall(rf"```{language} run\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page) for line in block.splitlines() if line and not line.startswith("#")]


def smaller(command: str, **paths: Path) -> list[str]:
    for pattern, small in SMALLER:
        command = re.sub(pattern, small, command)
    for name, workdir in paths.items():
        command = command.replace(name, str(workdir))
    words = shlex.split(command)
    assert words[0] == "nomadiff"
    return words[1:]


def run(page: str, **paths: Path) -> None:
    for command in commands(page):
        assert main(smaller(command, **paths)) == 0, command


@pytest.fixture(name="here")
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages assume it."""
    torch.set_num_threads(1)
    for seed, (name, kind) in enumerate((("photos", "real"), ("held-out", "real"), ("sdxl", "synthetic"))):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
        write_images(tmp_path / name, [images], 40, manifest={"kind": kind})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_page_is_tested_and_every_rule_is_needed() -> None:
    assert {path.name for path in PAGES.glob("*.md")} == {
        "few-photos.md",
        "improve-edm.md",
        "latent-edm2.md",
        "lora.md",
        "scale-out.md",
    }
    written = [command for page in sorted(PAGES.glob("*.md")) for command in commands(page.name)]
    for pattern, _ in SMALLER:
        assert any(re.search(pattern, command) for command in written), pattern


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_commands_have_the_options_they_show(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of the blocks that cannot be run here."""
    text = (PAGES / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"nomadiff ((?!lora-)[a-z]+ .*--.*)", "\n".join(re.findall(r"```\w*sh.*?```", text, re.DOTALL)))
    assert found
    for command in found:
        words = shlex.split(command)
        assert main([words[0], "--help"]) == 0
        known = capsys.readouterr().out
        for word in words[1:]:
            if word.startswith("--"):
                assert re.search(rf"(?<![\w-]){word}(?![\w-])", known), f"{words[0]} has no {word}"


def test_links_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.slow
def test_few_photos(here: Path, pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("few-photos.md", PIPELINE=pipeline)
    text = capsys.readouterr().out
    assert "GPU hours" in text and (here / "study" / "report.html").exists() and (here / "metrics.json").exists()
    assert Model.load("run", device="cpu").config.source_names == ("real", "sdxl")


@pytest.mark.slow
def test_improve_edm(here: Path, lookalikes: Any, tiny_network: Any) -> None:
    network = NetworkConfig("ddpmpp", 16, 3, 16, (1, 2), 1, (8,), augment_dim=9)
    _, arguments = tiny_network("ddpmpp")
    arguments = {**arguments, "img_resolution": 16, "attn_resolutions": [8]}
    torch.manual_seed(0)
    (here / "edm.pkl").write_bytes(lookalikes.pickle(lookalikes.edm(build_network(network, 0), **arguments)))
    run("improve-edm.md")
    assert Model.load("sims", device="cpu").config.method == "neon", "the last command merged"
    assert (here / "sims.json").exists() and ImageSource.open("sims.zip", name="s", synthetic=True).resolution == 16


@pytest.mark.slow
def test_lora(here: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="needs the diffusers extra")
    run("lora.md", PIPELINE=pipeline)
    assert (here / "neon.safetensors").exists() and (here / "stronger.safetensors").exists()
    (code,) = blocks("lora.md", "python")
    exec(code.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", str(pipeline)), {})
    assert (here / "after.png").exists()


@pytest.mark.slow
def test_latent_edm2(here: Path, lookalikes: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")
    workdir = tmp_path_factory.mktemp("autoencoders")
    for name, levels in (("small", 2), ("edm2", 4)):
        torch.manual_seed(0)
        diffusers.AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=4,
            norm_num_groups=4,
        ).save_pretrained(workdir / name)
    network = NetworkConfig("edm2", 8, 4, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)
    arguments = {"img_resolution": 8, "img_channels": 4, "label_dim": 2, "model_channels": 16, "channel_mult": [1, 2]}
    arguments |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 16}
    contents = lookalikes.edm2(build_network(network, 2), **arguments)
    contents["encoder"].identity = ("StabilityVAEEncoder", "")
    contents["encoder"]._init_kwargs.update(vae_name=str(workdir / "edm2"))
    (here / "edm2.pkl").write_bytes(lookalikes.pickle(contents))
    run("latent-edm2.md", VAE=workdir / "small")
    assert ImageSource.open("better.zip", name="s", synthetic=True).resolution == 16
    assert ImageSource.open("sims512.zip", name="s", synthetic=True).resolution == 64
    assert Model.load("run", device="cpu").config.sources == 2
