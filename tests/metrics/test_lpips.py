"""LPIPS against the authors' package: numbers frozen from it for seeded weights, and its published heads."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.metrics import lpips as module
from nomadiff.metrics.lpips import LPIPS, NETWORKS, LPIPSNetwork
from nomadiff.metrics.weights import WeightFile, read_tensors, sha256_of_file


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_distances_are_the_authors(net: str, golden, seeded, images) -> None:
    network = LPIPSNetwork(net).eval()
    network.load_state_dict(seeded(network))
    x, y = images(4, 3, 64, seed=1), images(4, 3, 64, seed=2)
    with torch.inference_mode():
        distance = network(x.float() / 127.5 - 1, y.float() / 127.5 - 1)
    assert distance.tolist() == pytest.approx(golden["lpips"][net], rel=1e-5)


@pytest.fixture
def published_like(seeded, tmp_path, monkeypatch):
    """Files with the layout of torchvision's AlexNet and the authors' heads, with seeded weights."""
    tensors = seeded(LPIPSNetwork("alex"))
    trunk = {name.replace("trunk.", "features."): value for name, value in tensors.items() if "trunk" in name}
    trunk["classifier.1.weight"] = torch.zeros(2, 2)
    heads = {f"lin{i}.model.1.weight": tensors[f"heads.{i}"].reshape(1, -1, 1, 1) for i in range(5)}
    paths = []
    for name, content in (("trunk.pth", trunk), ("heads.pth", heads)):
        torch.save(content, tmp_path / name)
        paths.append(tmp_path / name)
    files = tuple(WeightFile("", sha256_of_file(path)) for path in paths)
    monkeypatch.setitem(module.NETWORKS, "alex", files)
    return paths


def test_loads_the_published_layouts(published_like, golden, images) -> None:
    lpips = LPIPS("alex", trunk=published_like[0], heads=published_like[1])
    x, y = images(4, 3, 64, seed=1), images(4, 3, 64, seed=2)
    assert lpips(x, y, batch_size=3).tolist() == pytest.approx(golden["lpips"]["alex"], rel=1e-5)
    assert lpips(x, x).tolist() == [0, 0, 0, 0]
    assert lpips.name == "lpips_alex"
    for a, b, words in [
        (images(1, 1, 64), images(1, 1, 64), "needs 3-channel images, got 1"),
        (images(1, 3, 16), images(1, 3, 16), "needs images of 32x32 or more"),
        (x, y[:2], "pair by pair"),
    ]:
        with pytest.raises(UsageError, match=words):
            lpips(a, b)


def test_unpublished_weights_are_refused(tmp_path) -> None:
    torch.save({}, tmp_path / "x.pth")
    with pytest.raises(DataError, match="expected 7be5be79"):
        LPIPS("alex", trunk=tmp_path / "x.pth", heads=tmp_path / "x.pth")
    with pytest.raises(UsageError, match="no LPIPS network 'resnet'"):
        LPIPS("resnet")


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_the_published_heads_fit(net: str, published) -> None:
    path = published / f"lpips_{net}.pth"
    assert sha256_of_file(path) == NETWORKS[net][1].sha256
    widths = [value.numel() for value in read_tensors(path).values()]
    assert widths == [head.numel() for head in LPIPSNetwork(net).heads]
