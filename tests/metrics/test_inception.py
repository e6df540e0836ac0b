"""The Inception graph and TensorFlow's resize against torch-fidelity, by numbers frozen from it and directly."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import DataError
from nomadiff.metrics.detectors import inception as module
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.detectors.inception import InceptionV3, resize_tf1
from nomadiff.metrics.evaluate import distance_name
from nomadiff.metrics.weights import WeightFile, sha256_of_file


@pytest.fixture(scope="module")
def network(seeded) -> InceptionV3:
    result = InceptionV3().eval()
    result.load_state_dict(seeded(result))
    return result


def test_features_are_torch_fidelitys(network, golden, images) -> None:
    expected = golden["inception"]
    resized = resize_tf1(images(2, 3, 32).float())
    assert resized[1, 2, 150, ::13].tolist() == expected["resized"]  # to the last bit
    with torch.inference_mode():
        features = network((resized - 128) / 128)
    torch.testing.assert_close(features[:, ::64], torch.tensor(expected["features"]), rtol=1e-4, atol=1e-2)
    assert float(features.double().mean()) == pytest.approx(expected["mean"], rel=1e-5)


def test_torch_fidelity_itself(torch_fidelity, network, images, tmp_path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save(network.state_dict(), tmp_path / "seeded.pth")
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "seeded.pth"))
    for size in (8, 32, 299, 320):
        x = images(1, 3, size)
        with torch.inference_mode():
            torch.testing.assert_close(network((resize_tf1(x.float()) - 128) / 128), theirs(x)[0], rtol=1e-6, atol=1e-6)


def test_resize_keeps_a_picture_of_the_right_size_and_repeats_edges(images) -> None:
    x = images(1, 3, 300)[..., :299, :299].float()
    assert torch.equal(resize_tf1(x), x)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert resize_tf1(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]  # no half-pixel centres


def test_only_the_published_file_makes_a_fid(network, tmp_path, monkeypatch) -> None:
    path = tmp_path / "seeded.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(DataError, match=r"its SHA-256 is .*, expected 6726825d0af5"):
        load_detector("inception", weights=path)
    monkeypatch.setattr(module, "WEIGHTS", WeightFile("", sha256_of_file(path)))
    detector = load_detector("inception", weights=path)
    assert detector.dimension == 2048
    x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert detector(x).shape == (1, 2048)
    assert distance_name(detector) == "fid"
    detector.sha256 = "0" * 64
    assert distance_name(detector) == "fd_inception"
