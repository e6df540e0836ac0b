"""DINOv2 through transformers, with a tiny random model."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors import load_detector

installed = importlib.util.find_spec("transformers") is not None


@pytest.mark.skipif(installed, reason="transformers is installed")
def test_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r'pip install "nomadiff\[dino\]"'):
        load_detector("dinov2")


@pytest.mark.skipif(not installed, reason="needs transformers")
def test_class_token_of_a_local_model(tmp_path, images, monkeypatch) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**shape)).eval()
    model.save_pretrained(tmp_path / "tiny")
    detector = load_detector("dinov2", weights=tmp_path / "tiny")
    x = images(2, 3, 64)
    assert detector.dimension == 32 and len(detector.sha256) == 64
    resized = torch.nn.functional.interpolate(x.float(), (224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((resized - mean[:, None, None]) / std[:, None, None]).pooler_output
    torch.testing.assert_close(detector(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="absent: cannot be read as DINOv2"):
        load_detector("dinov2", weights=str(tmp_path / "absent"))
