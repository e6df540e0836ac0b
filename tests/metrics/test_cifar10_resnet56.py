"""ResNet-56: its shape, its names, and with the published weights its accuracy."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors import accuracy, load_classifier
from nomadiff.metrics.detectors import cifar10_resnet56 as module
from nomadiff.metrics.detectors.cifar10_resnet56 import ResNet56
from nomadiff.metrics.weights import WeightFile, sha256_of_file


@pytest.fixture
def classifier(seeded, tmp_path, monkeypatch):
    """The detector with seeded weights, in the layout of the published file."""
    path = tmp_path / "seeded.th"
    tensors = {f"module.{name}": value for name, value in seeded(ResNet56()).items() if "num_batches" not in name}
    torch.save({"state_dict": tensors, "best_prec1": 10.0}, path)
    monkeypatch.setattr(module, "WEIGHTS", WeightFile("", sha256_of_file(path)))
    return load_classifier("cifar10-resnet56", weights=path)


def test_shapes_and_size(classifier, images) -> None:
    x = images(3, 3, 32)
    assert classifier(x).shape == (3, 64)
    assert classifier.classes(x).dtype == torch.int64
    assert torch.equal(classifier.classes(x), classifier.classes_of_features(classifier(x)))
    assert sum(p.numel() for p in classifier.network.parameters()) == 853_018  # 0.85 M in the paper
    with pytest.raises(UsageError, match="needs 32x32 images"):
        classifier(images(1, 3, 64))


def test_another_file_is_refused(tmp_path) -> None:
    (tmp_path / "x.th").write_bytes(b"PK")
    with pytest.raises(DataError, match="expected 4bfd9763"):
        load_classifier("cifar10-resnet56", weights=tmp_path / "x.th")


def test_accuracy_with_the_published_weights(published) -> None:
    archive = Path(os.environ["NOMADIFF_DATA"]) / "cifar10-32x32-test.zip"
    if not archive.exists():
        pytest.skip("the folder of NOMADIFF_DATA has no cifar10-32x32-test.zip")
    from PIL import Image

    with zipfile.ZipFile(archive) as content:
        labels = dict(json.loads(content.read("dataset.json"))["labels"])
        names = sorted(labels)[:500]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(content.read(name)))) for name in names])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    classifier = load_classifier("cifar10-resnet56", weights=published / "resnet56-4bfd9763.th")
    share = accuracy(classifier, images, torch.tensor([labels[name] for name in names]))
    assert share == pytest.approx(0.93, abs=0.03)
    with pytest.raises(UsageError, match="do not belong together"):
        accuracy(classifier, images, torch.zeros(3, dtype=torch.int64))
