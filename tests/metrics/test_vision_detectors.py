"""CLIP, SSCD and the sizes of DINOv2, with tiny networks made here: through transformers and as TorchScript."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.cmmd import cmmd
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.detectors.clip import CLIP
from nomadiff.metrics.detectors.vision import IMAGENET
from nomadiff.metrics.reference import ReferenceSet

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


class Means(nn.Module):
    """Means of the four quarters of each channel, so that what was resized and normalised shows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "network.torchscript.pt"
    torch.jit.script(Means()).save(str(path))
    return path


def prepared(images: Tensor, size: int, mode: str, normalisation) -> Tensor:
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in normalisation)
    resized = nn.functional.interpolate(images.float(), (size, size), mode=mode, antialias=True)
    return (resized / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "size", "mode", "normalisation", "unit"),
    [
        ("sscd", 288, "bilinear", IMAGENET, True),
        ("clip", 336, "bicubic", CLIP.normalisation, True),
        ("dinov2-small", 224, "bicubic", IMAGENET, False),
        ("dinov2-giant", 224, "bicubic", IMAGENET, False),
    ],
)
def test_a_torchscript_file_gets_what_the_original_gets(script, images, name, size, mode, normalisation, unit) -> None:
    detector = load_detector(name, weights=script)
    x = images(3, 3, 40)
    expected = Means()(prepared(x, size, mode, normalisation))
    if unit:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(detector(x), expected)
    assert (detector.name, detector.dimension, len(detector.sha256)) == (name, None, 64)
    with pytest.raises(UsageError, match=f"detector {name}: needs 3-channel images"):
        detector(images(2, 1, 8))


def test_other_files_are_refused(tmp_path: Path, images) -> None:
    with pytest.raises(
        UsageError, match=r"sscd needs its TorchScript file .* https://dl.fbaipublicfiles.com/.*non-com"
    ):
        load_detector("sscd")
    with pytest.raises(UsageError, match="sscd needs its TorchScript file"):
        load_detector("sscd", weights="some/folder")
    with pytest.raises(DataError, match="absent.pt: no such TorchScript file for detector clip"):
        load_detector("clip", weights=tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(DataError, match="not a TorchScript file"):
        load_detector("sscd", weights=tmp_path / "text.pt")
    torch.jit.script(Cube()).save(str(tmp_path / "cube.pt"))
    with pytest.raises(UsageError, match=r"must give \(2, D\) features, its network gives \(2, 3, 288, 288\)"):
        load_detector("sscd", weights=tmp_path / "cube.pt")(images(2, 3, 8))


@needs_transformers
def test_clip_embeds_as_transformers_does(tmp_path: Path, images, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**shape, image_size=28, patch_size=14, projection_dim=16)
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path / "tiny")
    detector = load_detector("clip", weights=tmp_path / "tiny")
    x = images(4, 3, 40)
    with torch.no_grad():
        embeds = model(prepared(x, 28, "bicubic", CLIP.normalisation)).image_embeds
    torch.testing.assert_close(detector(x), embeds / embeds.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert detector.dimension == 16 and len(detector.sha256) == 64
    with pytest.raises(DataError, match="tiny: cannot be read as DINOv2"):
        load_detector("dinov2", weights=tmp_path / "tiny")


@needs_transformers
@pytest.mark.parametrize("name", ["dinov2", "dinov2-small", "dinov2-base", "dinov2-giant"])
def test_sizes_of_dinov2_differ_in_what_they_read(tmp_path: Path, name: str, monkeypatch) -> None:
    from transformers import Dinov2Config, Dinov2Model

    with pytest.raises(DataError, match=f"facebook/{name if name != 'dinov2' else 'dinov2-large'}: cannot be read"):
        load_detector(name)  # nothing is fetched offline
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(tmp_path / "tiny")
    detector = load_detector(name, weights=tmp_path / "tiny")
    assert (detector.name, detector.dimension) == (name, 16)


def test_cmmd_is_beside_kid_on_clip(script: Path, images) -> None:
    detector = load_detector("clip", weights=script)
    real, made = images(60, 3, 8), images(50, 3, 8, seed=1)
    reference = ReferenceSet(real, detector=detector)
    scores = reference.evaluate(made, extra=("kid", "cmmd"), interval=0.95)
    assert scores["cmmd"] == pytest.approx(cmmd(detector(real), detector(made)))
    assert scores["cmmd_low"] <= scores["cmmd"] <= scores["cmmd_high"] and "kd_clip" in scores
    assert abs(reference.floor(count=50, extra=("cmmd",))["cmmd"]) < 1
    assert set(reference.reference_left_out(detector(made), ("kid", "cmmd"))) == {"fd_clip", "kd_clip", "cmmd"}


def test_copies_are_found_by_a_detector_of_copies(script: Path, images) -> None:
    """A brighter copy is far away in pixels; by a detector that does not see brightness it is the same."""
    train, real = images(40, 3, 16), images(60, 3, 16, seed=1)
    made = torch.cat([images(38, 3, 16, seed=2), (train[:4].float() * 0.6 + 60).to(torch.uint8)])

    class Edges:
        name, version, sha256, dimension = "edges", "1", "", None

        def __call__(self, batch: Tensor) -> Tensor:
            x = batch.float().flatten(1)
            x = x - x.mean(1, keepdim=True)
            return x / x.norm(dim=1, keepdim=True)

    by_pixels = ReferenceSet(real, train=train, detector="pixels")
    by_edges = ReferenceSet(real, train=train, detector="pixels", copies=Edges())
    found = by_edges.score(made)
    assert found.nearest.order[:4].sort().values.tolist() == [38, 39, 40, 41]
    assert found.nearest.index[38:].tolist() == [0, 1, 2, 3] and (found.nearest.ratio[38:] < 0.2).all()
    assert found.values["replication"] > by_pixels.score(made).values["replication"]
    assert by_edges.meta["copies"] == "edges" and "copies" not in by_pixels.meta
    assert by_edges.floor(count=40, extra=("ssim",))["replication"] == 0.05
    assert load_detector("sscd", weights=script).name == "sscd"  # what it is for
