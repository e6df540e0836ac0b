"""TorchScript files as detectors and classifiers."""

from __future__ import annotations

import warnings

import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.metrics.evaluate import distance_name, evaluate


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


class Wrong(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() if images.shape[1] == 3 else images.float().flatten(1) @ torch.ones(3, 1)


def saved(network: torch.nn.Module, path) -> str:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(network).save(path)
    return str(path)


def test_a_file_is_a_detector_named_after_it(tmp_path, images) -> None:
    detector = load_detector(saved(Means(), tmp_path / "my-means.pt"))
    x = images(40, 3, 16)
    torch.testing.assert_close(detector(x), Means()(x))
    assert distance_name(detector) == "fd_my_means" and len(detector.sha256) == 64
    result = evaluate(x[:20], x[20:], detector=detector)
    assert result["fd_my_means"] > 0 and result["composition"] is None


class Asked(torch.nn.Module):
    """The interface of NVIDIA's detectors: class scores unless features are asked for."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        features = images.float().mean((2, 3))
        return features if return_features else features @ torch.eye(3, 2)


def test_a_file_that_can_be_asked_for_features_is_asked(tmp_path, images) -> None:
    path = saved(Asked(), tmp_path / "asked.pt")
    x = images(4, 3, 16)
    assert load_detector(path)(x).shape == (4, 3)
    assert load_classifier(path)(x).shape == (4, 2)  # of a classifier the scores


def test_as_a_classifier_its_output_are_scores(tmp_path, images) -> None:
    path = saved(Means(), tmp_path / "scores.pt")
    x = images(40, 3, 16)
    result = evaluate(x[:20], x[20:], detector="pixels", classifier=path)
    assert len(result["composition"]) == 6 and result["meta"]["classifier"] == "scores"
    assert torch.equal(load_classifier(path).classes(x), Means()(x).argmax(1))


def test_bad_files_and_outputs_are_told(tmp_path, images) -> None:
    whole = saved(Means(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.pt: not a TorchScript file, or damaged"):
        load_detector(str(tmp_path / "cut.pt"))
    with pytest.raises(DataError, match="no such detector file"):
        load_detector(str(tmp_path / "absent.pt"))
    with pytest.raises(UsageError, match="takes no weights"):
        load_detector(whole, weights=whole)
    wrong = load_detector(saved(Wrong(), tmp_path / "wrong.pt"))
    with pytest.raises(UsageError, match=r"must give \(2, D\) features, it gives \(2, 3, 16, 16\)"):
        wrong(images(2, 3, 16))
    with pytest.raises(UsageError, match=r"detector wrong fails on images \(2, 1, 16, 16\)") as caught:
        wrong(images(2, 1, 16))
    assert "\n" not in str(caught.value)
