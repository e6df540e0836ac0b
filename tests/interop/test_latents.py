"""Latents: EDM2's layout and scale, with a small autoencoder of random weights."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.sources import ImageSource
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json, write_json
from nomadiff.interop.importing import import_model
from nomadiff.interop.latents import LatentCodec, LatentStatistics, codec_of, encode_set
from nomadiff.networks.config import NetworkConfig

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")


@pytest.fixture(scope="module", name="vae")
def _vae() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


def pictures(count: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_scale_is_edm2s() -> None:
    statistics = LatentStatistics()
    raw = torch.randn(1000, 4, 2, 2) * torch.tensor(statistics.std).reshape(1, 4, 1, 1)
    raw = raw + torch.tensor(statistics.mean).reshape(1, 4, 1, 1)
    normalised = statistics.normalised(raw)
    assert normalised.mean((0, 2, 3)).abs().max() < 0.05
    assert (normalised.std((0, 2, 3)) - 0.5).abs().max() < 0.05
    torch.testing.assert_close(statistics.raw(normalised), raw, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="a mean and a positive standard deviation"):
        LatentStatistics(mean=(1.0,), std=(0.0,))


def test_encoding_is_the_posterior_of_images_in_0_to_1(vae: Any) -> None:
    images = pictures()
    moments = LatentCodec(vae, batch_size=2).encode(images)
    with torch.no_grad():
        posterior = vae.encode(images.float() / 255).latent_dist
    expected = torch.cat([posterior.mean, posterior.std], dim=1)
    torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-5)  # whatever the chunks
    codec = LatentCodec(vae)
    noise = torch.randn(5, 4, 8, 8)
    latents = codec.sampled(moments, noise)
    torch.testing.assert_close(codec.statistics.raw(latents), posterior.mean + posterior.std * noise)


def test_decoding_in_chunks_and_tiles(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.5
    codec = LatentCodec(vae)
    images = codec.decode(latents)
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.uint8
    with torch.no_grad():
        whole = vae.decode(codec.statistics.raw(latents)).sample
    assert torch.equal(images, (whole.clamp(0, 1) * 255).to(torch.uint8))
    assert (LatentCodec(vae, batch_size=2).decode(latents).int() - images.int()).abs().max() <= 1
    asked: list[bool] = []
    monkeypatch.setattr(vae, "enable_tiling", lambda: asked.append(True))
    monkeypatch.setattr("nomadiff.interop.latents._TILED_FROM", 32)
    codec.decode(torch.randn(1, 4, 8, 8))
    codec.decode(torch.randn(1, 4, 16, 16))
    assert asked == [True]


def test_a_set_is_encoded_once_in_edm2s_layout(vae: Any, tmp_path: Path) -> None:
    images = pictures()
    write_images(tmp_path / "photos", [images], 5, labels=[0, 1, 2, 0, 1], manifest={"kind": "real"})
    codec = LatentCodec(vae, batch_size=2)
    out = encode_set(tmp_path / "photos", tmp_path / "latents.zip", codec)
    with zipfile.ZipFile(out) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        assert names[0] == "00000/img-mean-std-00000000.npy" and len(names) == 5
        arrays = np.stack([np.load(io.BytesIO(archive.read(name)), allow_pickle=False) for name in names])
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert arrays.dtype == np.float32 and arrays.shape == (5, 8, 8, 8)
    torch.testing.assert_close(torch.from_numpy(arrays), codec.encode(images))
    assert [label for _, label in labels] == [0, 1, 2, 0, 1] and labels[3][0] == names[3]
    with pytest.raises(UsageError, match="exists already"):
        encode_set(tmp_path / "photos", out, codec)


def test_images_that_do_not_fit(vae: Any, tmp_path: Path) -> None:
    codec = LatentCodec(vae)
    with pytest.raises(UsageError, match="must be uint8"):
        codec.encode(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(UsageError, match="15x15 pixels do not divide by 2"):
        codec.encode(torch.zeros(1, 3, 15, 15, dtype=torch.uint8))
    with pytest.raises(UsageError, match="4 latent channels, its statistics 1"):
        LatentCodec(vae, LatentStatistics((0.0,), (1.0,)))
    with pytest.raises(DataError, match="cannot be loaded"):
        LatentCodec.load(str(tmp_path / "none"))


def test_a_latent_model_makes_images(
    vae: Any, lookalikes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nomadiff.networks.build import build_network

    config = NetworkConfig("edm2", 8, 4, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)
    arguments = {"img_resolution": 8, "img_channels": 4, "label_dim": 2, "model_channels": 16, "channel_mult": [1, 2]}
    contents = lookalikes.edm2(
        build_network(config, 2), **arguments, num_blocks=1, attn_resolutions=[4], channels_per_head=16
    )
    encoder = contents["encoder"]
    encoder.identity = ("StabilityVAEEncoder", "")
    encoder._init_kwargs.update(vae_name="somebody/some-vae", raw_mean=[0.0] * 4, raw_std=[2.0] * 4, final_std=0.5)
    (tmp_path / "n.pkl").write_bytes(lookalikes.pickle(contents))
    model = import_model(tmp_path / "n.pkl", tmp_path / "model")
    vae.save_pretrained(tmp_path / "vae")
    codec = codec_of(model, str(tmp_path / "vae"))
    assert codec.statistics.std == (2.0,) * 4, "the scale is what the file says"
    command = ["synthesize", "--from", str(tmp_path / "model"), "--count", "3", "--out", str(tmp_path / "set")]
    command += ["--steps", "2", "--device", "cpu"]
    assert main([*command, "--vae", str(tmp_path / "vae")]) == 0
    source = ImageSource.open(tmp_path / "set", name="own", synthetic=True)
    assert source.images.shape == (3, 3, 16, 16) and source.labels is not None
    assert main([*command[:-4], "--out", str(tmp_path / "b"), "--vae", str(tmp_path / "none")]) != 0
    # without a file's word, EDM2's scale
    path = tmp_path / "model" / "sources.json"
    sources = read_json(path)
    del sources[0]["imported"]["latents"]
    write_json(path, sources)
    assert codec_of(model, str(tmp_path / "vae")).statistics == LatentStatistics()
