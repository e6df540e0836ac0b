"""Latents as data: EDM2's layout, the space they live in, fresh draws, and what may be mixed."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.latents import LatentSpace, read_space, write_latents
from nomadiff.data.lazy_images import open_lazily
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.source_union import union
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, NomadiffError, NomadiffWarning, UsageError

SPACE = LatentSpace("vae", "0" * 64, 2, mean=(1.0, -2.0), std=(3.0, 0.5))


def moments(count: int = 6, seed: int = 0) -> torch.Tensor:
    """Means of the space's own scale, standard deviations around a tenth of it."""
    generator = torch.Generator().manual_seed(seed)
    mean = SPACE.raw(0.5 * torch.randn(count, 2, 4, 4, generator=generator))
    return torch.cat([mean, torch.rand(count, 2, 4, 4, generator=generator) / 5], dim=1)


def written(path: Path, stored: torch.Tensor, space: LatentSpace = SPACE, **options) -> Path:
    write_latents(path, stored.split(4), len(stored), space=space, **options)
    return path


def source(name: str = "real", count: int = 6, seed: int = 0, space: LatentSpace = SPACE) -> ImageSource:
    return ImageSource(name, moments(count, seed), None, {"kind": "real"}, space)


def test_the_scale_is_edm2s():
    space = LatentSpace()
    columns = [torch.tensor(values).reshape(1, 4, 1, 1) for values in (space.mean, space.std)]
    raw = torch.randn(1000, 4, 2, 2) * columns[1] + columns[0]
    normalised = space.normalised(raw)
    assert normalised.mean((0, 2, 3)).abs().max() < 0.05
    assert (normalised.std((0, 2, 3)) - 0.5).abs().max() < 0.05
    torch.testing.assert_close(space.raw(normalised), raw, rtol=1e-5, atol=1e-5)
    assert LatentSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE


@pytest.mark.parametrize(
    "values",
    [
        None,
        {"mean": [1.0], "std": [0.0]},
        {"mean": [1.0], "std": [1.0, 1.0]},
        {"mean": [], "std": []},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": [10**400], "std": [1.0]},
        {"mean": ["1"], "std": [1.0]},
        {"mean": [1.0], "std": [1.0], "factor": 0},
        {"mean": [1.0], "std": [1.0], "vae": 3},
        {"mean": [1.0], "std": [1.0], "colour": "red"},
    ],
)
def test_a_space_that_makes_no_sense(values):
    with pytest.raises(DataError, match="latent space"):
        LatentSpace.from_dict(values)


def test_written_and_read_as_edm2_has_it(tmp_path):
    stored = moments()
    labels = [0, 1, 2, 0, 1, 2]
    path = written(tmp_path / "a.zip", stored, labels=labels, manifest={"kind": "synthetic", "generator": "me"})
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        assert names[0] == "00000/img-mean-std-00000000.npy" and len(names) == 6
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        first = np.load(io.BytesIO(archive.read(names[0])), allow_pickle=False)
        assert first.dtype == np.float32 and np.array_equal(first, stored[0].numpy())
        assert json.loads(archive.read("dataset.json"))["labels"][5] == [names[5], 2]
    opened = ImageSource.open(path, name="made", synthetic=True)
    assert opened.images.dtype == torch.float16 and torch.equal(opened.images, stored.half())
    assert opened.labels.tolist() == labels and opened.latents == SPACE == read_space(path)
    assert (opened.channels, opened.resolution, len(opened)) == (2, 4, 6)
    assert opened.provenance["manifest"]["generator"] == "me"
    with pytest.raises(UsageError, match="says these images are synthetic"):
        ImageSource.open(path, name="real", synthetic=False)
    part = ImageSource.open(path, name="made", synthetic=True, classes="1", subset="first:1")
    assert torch.equal(part.images, opened.images[1:2]) and part.latents == SPACE
    assert opened.first(2).latents == SPACE
    again = written(tmp_path / "b.zip", stored, labels=labels, manifest={"kind": "synthetic", "generator": "me"})
    assert path.read_bytes() == again.read_bytes()


def test_a_set_of_edm2s_own_tool_is_of_edm2s_space(tmp_path):
    folder = tmp_path / "set" / "00000"
    folder.mkdir(parents=True)
    for index in range(3):
        np.save(folder / f"img-mean-std-{index:08d}.npy", np.ones((8, 4, 4), np.float32))
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": None}))
    opened = ImageSource.open(tmp_path / "set", name="real", synthetic=False)
    assert opened.latents == LatentSpace() and opened.channels == 4 and opened.labels is None


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "shards"])
def test_the_space_is_found_in_a_wrapped_set_and_in_shards(tmp_path, kind):
    with zipfile.ZipFile(written(tmp_path / "a.zip", moments(), labels=[0] * 6)) as archive:
        archive.extractall(tmp_path / "set" / "latents")
    if kind != "folder":
        (tmp_path / "packed").mkdir()
    for shard in range({"folder": 0, "shards": 2}.get(kind, 1)):
        packed = "zip" if kind == "zip" else "tar"
        shutil.make_archive(str(tmp_path / "packed" / str(shard)), packed, tmp_path / "set", "latents")
    path = {"folder": tmp_path / "set", "shards": tmp_path / "packed"}.get(kind, tmp_path / "packed" / f"0.{kind}")
    assert read_images(path, latents=True).latents == SPACE == read_space(path)


def test_two_spaces_in_one_set_are_refused(tmp_path):
    for name, space in (("a", SPACE), ("b", replace(SPACE, vae="other", vae_sha256=None))):
        with zipfile.ZipFile(written(tmp_path / f"{name}.zip", moments(), space)) as archive:
            archive.extractall(tmp_path / "set" / name)
    with pytest.raises(DataError, match=r"set/b/latents\.json: another latent space than"):
        read_images(tmp_path / "set", latents=True)


def test_who_needs_pixels_is_told_that_there_are_none(tmp_path):
    path = written(tmp_path / "latents.zip", moments())
    latents = ImageSource.open(path, name="real", synthetic=False)
    with pytest.raises(UsageError, match=r"latents\.zip holds latents where images are needed"):
        latents.pixels  # noqa: B018


def test_latents_a_model_drew_have_no_spread(tmp_path):
    drawn = moments()[:, :2].half()
    opened = ImageSource.open(written(tmp_path / "own.zip", drawn), name="own", synthetic=True)
    assert torch.equal(opened.images, drawn)
    clean = SourceMix(opened).clean(drawn, torch.Generator())
    torch.testing.assert_close(clean, SPACE.normalised(drawn.float()))
    # beside an encoded set they get a spread of zero
    mix = SourceMix(source(), [opened])
    batch = mix.batch(0, 12, 0)
    assert batch.images.shape == (12, 4, 4, 4)
    made = batch.images[batch.source == 1]
    assert len(made) == 6 and not made[:, 2:].any() and batch.images[batch.source == 0][:, 2:].all()
    assert union("both", [source("a"), opened]).images.shape == (12, 4, 4, 4)


def test_draws_have_the_stored_mean_and_deviation():
    """The oracle: over many draws every value has the mean and the standard deviation that lie in the set."""
    stored = moments(2)
    mix = SourceMix(ImageSource("real", stored, None, {"kind": "real"}, SPACE))
    generator = torch.Generator().manual_seed(3)
    batch = mix.batch(0, 2, 0).images
    draws = torch.stack([mix.clean(batch, generator) for _ in range(4000)])
    assert draws.dtype == torch.float32
    scale = 0.5 / torch.tensor(SPACE.std).reshape(1, 2, 1, 1)
    mean, spread = batch.chunk(2, dim=1)
    error = spread * scale / 4000**0.5
    assert ((draws.mean(0) - SPACE.normalised(mean)) / error).abs().max() < 5
    assert (draws.std(0) / (spread * scale) - 1).abs().max() < 0.06
    assert not torch.equal(draws[0], draws[1]), "every use of an image has a draw of its own"
    again = mix.clean(batch, torch.Generator().manual_seed(3))
    assert torch.equal(draws[0], again), "and the generator decides which"


def test_images_are_what_they_were():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    mix = SourceMix(ImageSource("real", pixels, None, {"kind": "real"}))
    assert mix.latents is None
    assert torch.equal(mix.clean(pixels, torch.Generator()), pixels.float() / 127.5 - 1)


def test_what_cannot_be_mixed():
    pictures = ImageSource("photos", torch.zeros(3, 3, 4, 4, dtype=torch.uint8), None, {"kind": "real"})
    for pair in ((pictures, source("made")), (source("made"), pictures)):
        with pytest.raises(UsageError, match="photos holds images but made holds latents: encode both"):
            SourceMix(pair[0], [pair[1]])
    other = source("made", space=replace(SPACE, vae="elsewhere", vae_sha256="1" * 64))
    with pytest.raises(UsageError, match=r"real and made are latents of different autoencoders \(vae, elsewhere\)"):
        SourceMix(source(), [other])
    with pytest.raises(UsageError, match="of different scales"):
        SourceMix(source(), [source("made", space=replace(SPACE, mean=(0.0, 0.0)))])
    moved = source("made", space=replace(SPACE, vae="elsewhere"))
    assert SourceMix(source(), [moved]).latents == SPACE, "the same weights may lie in two places"
    unseen = source("made", space=replace(SPACE, vae_sha256=None))
    assert SourceMix(source(), [unseen]).latents == SPACE, "a name is enough where nobody looked at the weights"


def test_where_images_are_needed(tmp_path):
    path = written(tmp_path / "a.zip", moments())
    with pytest.raises(UsageError, match="holds latents where images are needed"):
        read_images(path)
    with pytest.raises(UsageError, match="cannot be resized"):
        ImageSource.open(path, name="real", synthetic=False, resolution=8)
    with pytest.raises(UsageError, match="latents must be float16 or float32"):
        ImageSource("real", torch.zeros(2, 3, 4, 4), None, {}, SPACE)
    with pytest.raises(UsageError, match="images must be uint8"):
        ImageSource("real", torch.zeros(2, 4, 4, 4), None, {})


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 4), np.float64), "float64 of shape 4x4x4"),
        (np.zeros((3, 4, 4), np.float32), "its space has squares of 2 channels"),
        (np.zeros((4, 4, 5), np.float32), "squares of 2 channels"),
        (np.asfortranarray(np.zeros((4, 4, 4), np.float32)), "float32 of shape 4x4x4"),
        (np.array([[[{}]]], dtype=object), "object"),
        (np.zeros((2, 4, 4), np.float32), "a latent of 2x4x4 among 4x4x4"),
        (np.zeros((4, 2, 2), np.float32), "a latent of 4x2x2 among 4x4x4"),
    ],
)
def test_files_that_are_no_latents(array, says, tmp_path):
    path = written(tmp_path / "a.zip", moments(1))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("00000/img-mean-std-00000001.npy", buffer.getvalue())
    with pytest.raises(DataError, match=f"img-mean-std-00000001.npy: .*{says}"):
        ImageSource.open(path, name="real", synthetic=False)


def test_damaged_sets(tmp_path):
    path = tmp_path / "a.zip"
    claims = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (8, 1 << 20, 1 << 20)}
    np.lib.format.write_array_header_1_0(claims, header)
    for content in (b"", b"not a numpy file", claims.getvalue()):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("00000/img-mean-std-00000000.npy", content)
        with pytest.raises(DataError, match="00000000.npy: not a latent"):
            ImageSource.open(path, name="real", synthetic=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("00000/img-mean-std-00000000.npy", b"")
        archive.writestr("latents.json", b"{}")
    with pytest.raises(DataError, match=r"latents.json: cannot be read \(a latent space needs"):
        read_space(path)
    broken = moments()
    broken[3, 0, 0, 0] = float("nan")
    with pytest.raises(NomadiffError, match="not finite"):
        written(tmp_path / "b.zip", broken)
    assert not (tmp_path / "b.zip").exists()
    broken[3, 0, 0, 0] = 1e6  # finite in the file, not in half precision
    with pytest.raises(DataError, match="not finite in half precision"):
        ImageSource.open(written(tmp_path / "c.zip", broken), name="real", synthetic=False)


def test_images_one_by_one(tmp_path):
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    write_images(tmp_path / "grey", [pixels], 5, labels=[0, 1, 0, 1, 0], manifest={"kind": "real"})
    with open_lazily(tmp_path / "grey") as images:
        assert len(images) == 5 and images.labels.tolist() == [0, 1, 0, 1, 0] and images.manifest["kind"] == "real"
        assert torch.equal(images.batch(1, 4), pixels[1:4].expand(-1, 3, -1, -1))
    with open_lazily("digits:pool", resolution=16) as images:
        assert images.batch(0, 2).shape == (2, 3, 16, 16)
    (tmp_path / "grey" / "00000" / "img00000003.png").write_bytes(b"torn")
    with open_lazily(tmp_path / "grey") as images, pytest.raises(DataError, match="img00000003.png: cannot be read"):
        images.batch(0, 5)
    with pytest.raises(DataError, match="holds no images"), open_lazily(written(tmp_path / "a.zip", moments())):
        pass


@pytest.mark.parametrize("damaged", [0, 3])
def test_images_read_one_by_one_can_leave_out_the_unreadable(tmp_path, damaged):
    pixels = torch.arange(6 * 16, dtype=torch.uint8).reshape(6, 1, 4, 4)
    write_images(tmp_path / "set", [pixels], 6, labels=torch.arange(6), manifest={})
    (tmp_path / "set" / "00000" / f"img{damaged:08d}.png").write_bytes(b"torn")
    unreadable = f"img{damaged:08d}.png"
    with (
        pytest.raises(DataError, match=f"{unreadable}: cannot be read .*--skip-unreadable"),
        open_lazily(tmp_path / "set") as images,
    ):
        images.batch(0, 6)
    with (
        pytest.warns(NomadiffWarning, match=f"1 of 6 images .*\n  00000/{unreadable}"),
        open_lazily(tmp_path / "set", skip_unreadable=True) as images,
    ):
        kept = [index for index in range(6) if index != damaged]
        assert len(images) == 5 and images.labels.tolist() == kept
        assert torch.equal(images.batch(0, 5), pixels[kept].expand(-1, 3, -1, -1))
    for file in (tmp_path / "set").rglob("*.png"):
        file.write_bytes(b"torn")
    with (
        pytest.warns(NomadiffWarning),
        pytest.raises(DataError, match="none of 6 images can be read"),
        open_lazily(tmp_path / "set", skip_unreadable=True),
    ):
        pass
