"""The Inception graph and TensorFlow's resize against torch-fidelity, by numbers frozen from it and directly."""

from __future__ import annotations

import warnings

import pytest
import torch

from nomadiff.errors import DataError
from nomadiff.metrics.detectors import inception as module
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.detectors.inception import InceptionV3, resize_tf1
from nomadiff.metrics.distance_names import distance_name
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


def test_the_file_may_have_any_age(network, tmp_path, monkeypatch) -> None:
    """torch-fidelity's and pytorch-fid's file: names of the graph without batch norms' counters, torch's old format."""
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    tensors = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(module, "WEIGHTS", WeightFile("", sha256_of_file(path)))
    x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_detector("inception", weights=path)(x), network(torch.full((1, 3, 299, 299), -1.0))
        )


class LookAlike(torch.nn.Module):
    """The interface of NVIDIA's inception-2015-12-05.pt."""

    def forward(self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False) -> torch.Tensor:
        assert img.dtype == torch.uint8
        features = img.float().mean((2, 3)).repeat(1, 683)[:, :2048]
        return features if return_features else features[:, :1008]


def test_nvidias_file_makes_a_fid_too(tmp_path, monkeypatch, images) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(LookAlike()).save(path)
    with pytest.raises(DataError, match=r"its SHA-256 is .*, expected f58cb9b6ec32"):
        load_detector("inception", weights=path)
    monkeypatch.setattr(module, "SCRIPT", WeightFile("", sha256_of_file(path)))
    detector = load_detector("inception", weights=path)
    assert detector(images(2, 3, 8)).shape == (2, 2048)
    assert distance_name(detector) == "fid" and detector.sha256 == sha256_of_file(path)


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
    with pytest.raises(DataError, match="expected f58cb9b6ec32"):  # the ending says which of the two files is meant
        load_detector("inception", weights=path.rename(tmp_path / "seeded.pt"))
    detector.sha256 = "0" * 64
    assert distance_name(detector) == "fd_inception"
