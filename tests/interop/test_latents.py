"""Latent space from end to end, with a small autoencoder of random weights: encode, train, improve, sample."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import noise_images
from standing_pair import StandingPair

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.latents import LatentSpace, read_space
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, Interrupted, UsageError
from nomadiff.files import read_json
from nomadiff.improve.distillation import distil
from nomadiff.improve.own_samples import OwnSamples
from nomadiff.interop import latents as encoding
from nomadiff.interop.importing import import_model
from nomadiff.interop.latents import encode_set
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided
from nomadiff.methods.dm import DM
from nomadiff.models.model import Model
from nomadiff.networks import autoencoder as decoding
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.fitting import Fitting
from nomadiff.training.presets import Preset
from nomadiff.training.settings import TrainingConfig

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")

ALONE = Processes(0, 1, torch.device("cpu"))
SMALL = ["--budget", "64", "--batch", "16", "--warmup", "16", "--device", "cpu"]


def small_vae(seed: int = 0, levels: int = 2) -> Any:
    torch.manual_seed(seed)
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


@pytest.fixture(scope="module", name="vae")
def _vae() -> Any:
    torch.set_num_threads(1)
    return small_vae()


@pytest.fixture(scope="module", name="workdir")
def _place(vae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: an autoencoder, photos, synthetic images, held-out photos."""
    workdir = tmp_path_factory.mktemp("latents")
    vae.save_pretrained(workdir / "vae")
    for name, kind, seed in (("photos", "real", 1), ("sdxl", "synthetic", 2), ("held-out", "real", 3)):
        write_images(workdir / name, [pictures(40, seed)], 40, labels=[0, 1] * 20, manifest={"kind": kind, "by": name})
    return workdir


@pytest.fixture(scope="module", name="sets")
def _sets(workdir: Path) -> Path:
    """The same with real and synthetic latents."""
    encode = ["encode", "--vae", str(workdir / "vae"), "--device", "cpu"]
    assert main([*encode, str(workdir / "photos"), "--out", str(workdir / "real.zip")]) == 0
    like = ["--like", str(workdir / "real.zip")]
    assert main([*encode, str(workdir / "sdxl"), *like, "--out", str(workdir / "sdxl.zip")]) == 0
    return workdir


def test_a_broken_file_is_left_out_by_name(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "photos", [pictures(12, 4)], 12, manifest={"kind": "real"})
    photos = sorted((tmp_path / "photos").rglob("*.png"))
    photos[3].write_bytes(photos[3].read_bytes()[:-30])
    out = tmp_path / "latents.zip"
    words = ["encode", str(tmp_path / "photos"), "--vae", str(workdir / "vae"), "--device", "cpu", "--out", str(out)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "cannot be read" in said and "--skip-unreadable" in said
    assert main([*words, "--skip-unreadable"]) == 0
    assert capsys.readouterr().err.count(f"  {photos[3].parent.name}/{photos[3].name} (") == 1
    assert len(ImageSource.open(out, name="real", synthetic=False)) == 11


@pytest.fixture(scope="module", name="run")
def _run(sets: Path) -> Path:
    """A trained model of latents, sampled in two steps."""
    network = NetworkConfig("edm2", 8, 4, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)
    training = TrainingConfig(budget=64, batch=16, warmup=16, ema_stds=(0.05, 0.1))
    preset = Preset(network, training, SamplerConfig(steps=2), 0.5, "test")
    real = ImageSource.open(sets / "real.zip", name="real", synthetic=False)
    DM(preset, class_labels=True).fit(SourceMix(real), sets / "run", device="cpu")
    return sets / "run"


def pictures(count: int = 5, seed: int = 1) -> torch.Tensor:
    return noise_images(count, seed, 3, 16)


def loaded(workdir: Path, **options: Any) -> Autoencoder:
    return Autoencoder.load(str(workdir / "vae"), **options)


# --- the autoencoder


def test_encoding_is_the_posterior_of_images_in_0_to_1(vae: Any) -> None:
    images = pictures()
    moments = Autoencoder(vae, "small", batch_size=2).encode(images)
    with torch.no_grad():
        posterior = vae.encode(images.float() / 255).latent_dist
    expected = torch.cat([posterior.mean, posterior.std], dim=1)
    torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-5)  # whatever the chunks


def test_decoding_in_chunks_and_tiles(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    images = Autoencoder(vae, "small").decode(latents)
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.uint8
    with torch.no_grad():
        whole = vae.decode(latents).sample
    assert torch.equal(images, (whole.clamp(0, 1) * 255).to(torch.uint8))
    assert (Autoencoder(vae, "small", batch_size=2).decode(latents).int() - images.int()).abs().max() <= 1
    asked: list[bool] = []
    monkeypatch.setattr(vae, "enable_tiling", lambda: asked.append(True))
    monkeypatch.setattr(decoding, "_TILED_FROM", 32)
    Autoencoder(vae, "small").decode(torch.randn(1, 4, 8, 8))
    Autoencoder(vae, "small").decode(torch.randn(1, 4, 16, 16))
    assert asked == [True]


def test_images_that_do_not_fit_and_autoencoders_that_are_not_there(vae: Any, workdir: Path, tmp_path: Path) -> None:
    small = Autoencoder(vae, "small")
    with pytest.raises(UsageError, match="must be uint8"):
        small.encode(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(UsageError, match="15x15 pixels do not divide by 2"):
        small.encode(torch.zeros(1, 3, 15, 15, dtype=torch.uint8))
    with pytest.raises(UsageError, match="4 latent channels, the scale is of 1"):
        small.space((0.0,), (1.0,))
    with pytest.raises(DataError, match="cannot be loaded"):
        Autoencoder.load(str(tmp_path / "none"))
    ours = loaded(workdir)
    assert ours.sha256 == small.sha256 and ours.spec == str((workdir / "vae").resolve())
    small_vae(1).save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="another autoencoder than the one these latents belong to"):
        Autoencoder.load(str(tmp_path / "other"), sha256=ours.sha256)


# --- encoding sets


def test_an_autoencoder_is_planned_before_it_is_built(workdir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(workdir / "vae", tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"block_out_channels": [20_000] * len(config["block_out_channels"])},
        {"block_out_channels": [10**9]},
        {"layers_per_block": 1_000_000},
        {"latent_channels": 10**12},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(DataError, match="cannot be loaded"):
            Autoencoder.load(str(folder))
    for text in ("[" * 100_000, "null"):
        (folder / "config.json").write_text(text)
        with pytest.raises(DataError, match="cannot be loaded"):
            Autoencoder.load(str(folder))


def test_a_set_keeps_labels_and_provenance(sets: Path) -> None:
    opened = ImageSource.open(sets / "real.zip", name="real", synthetic=False)
    expected = loaded(sets).encode(pictures(40, 1))
    torch.testing.assert_close(opened.images, expected.half(), rtol=2e-3, atol=2e-3)
    assert opened.labels is not None and opened.labels.tolist() == [0, 1] * 20
    assert opened.provenance["manifest"] == {"kind": "real", "by": "photos", "count": 40}
    with pytest.raises(UsageError, match="says these images are synthetic"):
        ImageSource.open(sets / "sdxl.zip", name="real", synthetic=False)
    with zipfile.ZipFile(sets / "real.zip") as archive:
        first = np.load(io.BytesIO(archive.read("00000/img-mean-std-00000000.npy")), allow_pickle=False)
        assert first.dtype == np.float32 and json.loads(archive.read("latents.json"))["factor"] == 2
    assert not (sets / "real.zip.part").exists()


def test_the_scale_is_measured_unless_it_is_known(sets: Path, tmp_path: Path) -> None:
    space = read_space(sets / "real.zip")
    mean, spread = loaded(sets).encode(pictures(40, 1)).double().chunk(2, dim=1)
    drawn = torch.stack([mean + spread * torch.randn(mean.shape, dtype=torch.float64) for _ in range(50)])
    torch.testing.assert_close(torch.tensor(space.mean).double(), drawn.mean((0, 1, 3, 4)), rtol=0.02, atol=0.02)
    torch.testing.assert_close(torch.tensor(space.std).double(), drawn.std((0, 1, 3, 4)), rtol=0.02, atol=0.02)
    assert read_space(sets / "sdxl.zip") == space, "--like takes it from another set"
    published = Autoencoder(small_vae(levels=4), LatentSpace().vae)
    found = encode_set(sets / "photos", tmp_path / "a.zip", published)
    assert replace(found, vae_sha256=None) == LatentSpace(), "EDM2's autoencoder has EDM2's scale"
    elsewhere = Autoencoder(small_vae(levels=4), "elsewhere")
    assert encode_set(sets / "photos", tmp_path / "b.zip", elsewhere, space=LatentSpace()) == found
    with pytest.raises(UsageError, match="another autoencoder than that of the latents to be like"):
        encode_set(sets / "photos", tmp_path / "c.zip", elsewhere, space=space)


def test_an_interrupted_encoding_goes_on(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_SHARD", 8)
    out, ours = tmp_path / "a.zip", loaded(sets, batch_size=4)
    calls, encode = [], Autoencoder.encode

    def failing(self: Autoencoder, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(Autoencoder, "encode", failing)
    with pytest.raises(Interrupted, match="run the same command again"):
        encode_set(sets / "photos", out, ours)
    assert not out.exists() and len(list((tmp_path / "a.zip.part").glob("*.npy"))) == 2
    with pytest.raises(UsageError, match="another job half done"):
        encode_set(sets / "sdxl", out, ours)
    encode_set(sets / "photos", out, ours)
    assert sum(calls) - calls[5] == 16 + 4 + 24, "the two finished shards were not encoded again"
    again = ImageSource.open(out, name="real", synthetic=False)
    assert torch.equal(again.images, ImageSource.open(_whole(sets, tmp_path), name="real", synthetic=False).images)
    with pytest.raises(UsageError, match="exists already"):
        encode_set(sets / "photos", out, ours)
    with pytest.raises(UsageError, match=r"written to a \.zip"):
        encode_set(sets / "photos", tmp_path / "folder", ours)


def _whole(sets: Path, tmp_path: Path) -> Path:
    encode_set(sets / "photos", tmp_path / "whole.zip", loaded(sets, batch_size=4))
    return tmp_path / "whole.zip"


def test_latents_are_not_encoded_again(sets: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["encode", str(sets / "real.zip"), "--vae", str(sets / "vae"), "--out", str(tmp_path / "a.zip")]
    assert main(command) == 1
    assert "holds no images" in capsys.readouterr().err
    small_vae(1).save_pretrained(tmp_path / "other")
    command = ["encode", str(sets / "sdxl"), "--vae", str(tmp_path / "other"), "--like", str(sets / "real.zip")]
    assert main([*command, "--out", str(tmp_path / "a.zip")]) == 1
    assert "another autoencoder" in capsys.readouterr().err
    dry = ["encode", str(sets / "photos"), "--vae", str(sets / "vae"), "--out", str(tmp_path / "a.zip"), "--dry-run"]
    assert main(dry) == 0
    assert "8 x 8 x 8" in capsys.readouterr().out and not (tmp_path / "a.zip").exists()


# --- models


def test_a_model_of_latents_makes_images(
    sets: Path, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = Model.load(run, device="cpu")
    assert model.shape == (4, 8, 8) and model.image_shape == (3, 16, 16)
    assert model.config.latents == read_space(sets / "real.zip")
    images = model.sample(3, seed=1)
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.uint8
    raw = torch.cat(list(model.sample_batches(3, 1, decode=False)))
    assert raw.dtype == torch.float32
    assert torch.equal(images, loaded(sets).decode(raw))
    later = model.sample(1, seed=1, first=2)
    assert (later.int() - images[2:].int()).abs().max() <= 1, "image i depends on (seed, i) only"
    samples = tmp_path / "samples.zip"
    assert main(["sample", str(run), "--count", "40", "--device", "cpu", "--out", str(samples)]) == 0
    opened = ImageSource.open(samples, name="own", synthetic=True)
    assert opened.latents is None and opened.resolution == 16 and opened.labels is not None
    assert opened.provenance["manifest"]["vae"] == str((sets / "vae").resolve())
    command = ["evaluate", str(samples), "--reference", str(sets / "held-out"), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "metrics.json")]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "3 x 16 x 16, decoded from 4 x 8 x 8 latents by /" in card
    assert torch.equal(Model.load(tmp_path / "out", device="cpu").sample(3, seed=1), images)
    assert main(["info", str(run)]) == 0 and main(["info", str(sets / "real.zip")]) == 0
    text = capsys.readouterr().out
    assert "images of:   3 x 16 x 16\nlatents:     4 x 8 x 8, of /" in text
    assert "latents:     40 of 4 x 8 x 8" in text


def test_the_same_images_by_another_way(sets: Path, run: Path, tmp_path: Path) -> None:
    """synthesize draws what sample draws; an autoencoder that moved is said by --vae, another one is refused."""
    (tmp_path / "moved").mkdir()
    loaded(sets).vae.save_pretrained(tmp_path / "moved" / "vae")
    command = ["synthesize", "--from", str(run), "--count", "3", "--seed", "1", "--device", "cpu"]
    command += ["--batch-size", "3"]
    assert main([*command, "--vae", str(tmp_path / "moved"), "--out", str(tmp_path / "set")]) == 0
    model = Model.load(run, device="cpu")
    images = model.sample(3, seed=1)
    assert torch.equal(ImageSource.open(tmp_path / "set", name="own", synthetic=True).images, images)
    small_vae(1).save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="another autoencoder"):
        Model.load(run, vae=str(tmp_path / "other"), device="cpu").sample(1)


@pytest.mark.parametrize("method", ["sda", "casd"])
def test_real_and_synthetic_latents(sets: Path, tmp_path: Path, method: str) -> None:
    train = ["train", "--real", str(sets / "real.zip"), "--synthetic", str(sets / "sdxl.zip"), "--method", method]
    assert main([*train, "--preset", "imagenet512-edm2-tiny", *SMALL, "--out", str(tmp_path / "run")]) == 0
    model = Model.load(tmp_path / "run", device="cpu")
    assert model.config.source_names == (("real", "sdxl") if method == "casd" else model.config.source_names)
    kinds = [source["kind"] for source in read_json(tmp_path / "run" / "sources.json")]
    assert "synthetic" in kinds
    assert model.sample(1, sampler=replace(model.config.sampler, steps=1)).shape == (1, 3, 16, 16)


def test_wrong_mixes_are_one_line(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_scale = ["encode", str(sets / "sdxl"), "--vae", str(sets / "vae"), "--out", str(tmp_path / "own.zip")]
    assert main(own_scale) == 0
    train = ["train", "--preset", "imagenet512-edm2-tiny", *SMALL, "--out", str(tmp_path / "run")]
    for wrong, says in (
        (["--real", str(sets / "real.zip"), "--synthetic", str(sets / "sdxl")], "encode both"),
        (["--real", str(sets / "photos"), "--synthetic", str(sets / "sdxl.zip")], "encode both"),
        (["--real", str(sets / "real.zip"), "--synthetic", str(tmp_path / "own.zip")], "different scales"),
        (["--real", str(sets / "real.zip"), "--resolution", "32"], "cannot be resized"),
        (["--real", str(sets / "real.zip"), "--augment", "0.1"], "--augment 0"),
        (["--real", str(sets / "sdxl.zip")], "--allow-synthetic-as-real"),
    ):
        capsys.readouterr()
        assert main([*train, *wrong]) == 2
        errors = capsys.readouterr().err
        assert says in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- improvement


def test_improve_stays_in_latent_space(
    sets: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encodings: list[int] = []
    monkeypatch.setattr(Autoencoder, "encode", lambda self, images: encodings.append(len(images)))
    out = tmp_path / "better"
    command = ["improve", str(run), "--synthetic-count", "24", "--budget", "32", "--snapshots", "1", "--weight", "0.5"]
    assert main([*command, "--keep-synthetic", "--device", "cpu", "--out", str(out)]) == 0
    own = ImageSource.open(out / "own.zip", name="own", synthetic=True)
    base = Model.load(run, device="cpu")
    assert own.latents == base.config.latents and own.images.shape == (24, 4, 8, 8)
    seed = own.provenance["manifest"]["seed"]
    drawn = torch.cat(list(base.sample_batches(24, seed, decode=False)))
    torch.testing.assert_close(own.images.float(), drawn, rtol=2e-3, atol=2e-3)
    assert own.labels is not None and torch.equal(own.labels, base.drawn_classes(range(24), seed))
    better = Model.load(out, device="cpu")
    assert better.config.latents == base.config.latents and better.guidance is not None
    assert better.sample(2).shape == (2, 3, 16, 16)
    # scored against real images: candidates are decoded
    score = ["--reference", str(sets / "held-out"), "--count", "40", "--confirmations", "2", "--evaluations", "2"]
    assert main([*command, *score, "--device", "cpu", "--out", str(out)]) == 0
    assert "as asked" in capsys.readouterr().out and (out / "report.html").exists()
    assert not encodings, "nothing was decoded and encoded again"
    samples = ["sample", str(out), "--count", "2", "--device", "cpu", "--out", str(tmp_path / "s.zip")]
    assert main(samples) == 0


def test_an_autoencoder_that_is_missing_is_told_before_a_copy_is_trained(
    sets: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*args: Any, **options: Any) -> Autoencoder:
        raise DataError("this autoencoder cannot be loaded")

    monkeypatch.setattr(Autoencoder, "load", missing)
    words = ["improve", str(run), "--synthetic-count", "24", "--budget", "32", "--weight", "0.5", "--count", "40"]
    words += ["--reference", str(sets / "held-out"), "--device", "cpu", "--out", str(tmp_path / "better")]
    assert main(words) == 1
    assert "this autoencoder cannot be loaded" in capsys.readouterr().err
    assert not list((tmp_path / "better").rglob("*.safetensors")) and not (tmp_path / "better" / "own").exists()


def test_own_latents_are_the_same_however_often_interrupted(run: Path, tmp_path: Path) -> None:
    model = Model.load(run, device="cpu")
    whole, broken = (OwnSamples(model, tmp_path / name, 20, 3) for name in ("a", "b"))
    for own in (whole, broken):
        own._size = 8
    whole.draw(ALONE)
    broken.draw(ALONE)
    (tmp_path / "b" / "own" / "000000008.zip").unlink()
    kept = tmp_path / "b" / "own" / "000000000.zip"
    before = kept.stat().st_mtime_ns
    broken.draw(ALONE)
    assert kept.stat().st_mtime_ns == before
    assert torch.equal(whole.open().images, broken.open().images)


def test_a_discriminator_and_a_student_learn_from_latents(sets: Path, tmp_path: Path) -> None:
    real = ImageSource.open(sets / "real.zip", name="real", synthetic=False)
    fitting = Fitting(budget=32, batch=16)
    options = {"discriminator": fitting, "synthetic_count": 16, "budget": 64, "batch": 16, "warmup": 16}
    guided = DiscriminatorGuided("imagenet512-edm2-tiny", **options).fit(SourceMix(real), tmp_path / "d", device="cpu")
    student = distil(guided, real, tmp_path / "student", fitting)
    assert student.config.latents == real.latents
    assert student.sample(1, sampler=replace(student.config.sampler, steps=1)).shape == (1, 3, 16, 16)


# --- EDM2's own models


def test_an_imported_model_of_latents(workdir: Path, lookalikes: Any, tmp_path: Path) -> None:
    from nomadiff.networks.build import build_network

    config = NetworkConfig("edm2", 8, 4, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)
    arguments = {"img_resolution": 8, "img_channels": 4, "label_dim": 2, "model_channels": 16, "channel_mult": [1, 2]}
    contents = lookalikes.edm2(
        build_network(config, 2), **arguments, num_blocks=1, attn_resolutions=[4], channels_per_head=16
    )
    encoder = contents["encoder"]
    encoder.identity = ("StabilityVAEEncoder", "")

    def imported(name: str) -> Model:
        (tmp_path / f"{name}.pkl").write_bytes(lookalikes.pickle(contents))
        return import_model(tmp_path / f"{name}.pkl", tmp_path / name)

    assert imported("plain").config.latents == LatentSpace(), "without a file's word, EDM2's space"
    encoder._init_kwargs.update(vae_name="somebody/some-vae", raw_mean=[0.0] * 4, raw_std=[2.0] * 4, final_std=0.5)
    model = imported("said")
    assert model.config.latents == LatentSpace("hf:somebody/some-vae", mean=(0.0,) * 4, std=(2.0,) * 4)
    small_vae(levels=4).save_pretrained(tmp_path / "vae")
    again = Model.load(tmp_path / "said", vae=str(tmp_path / "vae"), device="cpu")
    assert again.sample(2, sampler=replace(again.config.sampler, steps=2)).shape == (2, 3, 64, 64)
    with pytest.raises(DataError, match="4 channels of 2 pixels a side; this model's latents have 4 of 8"):
        Model.load(tmp_path / "said", vae=str(workdir / "vae"), device="cpu").sample(1)
    encoder._init_kwargs.update(raw_std=[2.0] * 3)
    with pytest.raises(DataError, match="its encoder: latent space: a latent space needs"):
        imported("three")
    encoder._init_kwargs.update(raw_std=[2.0] * 4, final_mean=1)
    with pytest.raises(DataError, match="final_mean 1"):
        imported("mean")
    contents["encoder"].identity = ("StandardRGBEncoder", "")
    model = imported("silent")
    with pytest.raises(UsageError, match="draws 4 channels and does not name the autoencoder .*: pass --vae"):
        model.sample(1)


@pytest.mark.slow
def test_two_processes_encode_what_one_encodes(two_processes: StandingPair, workdir: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", [pictures(1010)], 1010, manifest={"kind": "real"})  # two shards of the work
    words = ["encode", str(tmp_path / "photos"), "--vae", str(workdir / "vae"), "--device", "cpu", "--batch-size", "64"]
    assert main([*words, "--out", str(tmp_path / "one.zip")]) == 0
    two_processes(*words, "--out", str(tmp_path / "two.zip"))
    assert (tmp_path / "two.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()
