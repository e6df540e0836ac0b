"""Seeded weights and images that every machine makes alike."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metrics"


def seeded_tensors(network: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights for a network, a function of names and shapes: variance-keeping matrices, positive variances."""
    tensors = {}
    for number, (name, value) in enumerate(sorted(network.state_dict().items())):
        random = np.random.default_rng([seed, number])
        if not value.is_floating_point():
            tensors[name] = value
            continue
        noise = torch.from_numpy(random.standard_normal(value.shape, dtype=np.float32))
        if value.ndim > 1:
            tensors[name] = noise * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")) or name.startswith("heads"):
            tensors[name] = noise.abs() + 0.5
        else:
            tensors[name] = 0.1 * noise
    return tensors


def seeded_images(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Smooth-ish uint8 images: noise of the image's size over noise of a quarter of it."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 156, (count, channels, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
    return torch.from_numpy((coarse + random.integers(0, 100, coarse.shape)).astype(np.uint8))


@pytest.fixture(scope="session")
def torch_fidelity():
    """The package, where it is installed: an oracle for the Inception graph and the Frechet distance."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is an oracle only, it is not installed")
    library = torch.library.Library("torchvision", "DEF")  # what torchvision's import misses beside a CPU build
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torch_fidelity

    yield torch_fidelity
    del library


@pytest.fixture(scope="session")
def golden() -> dict:
    """Numbers recorded from other implementations by ``record_golden.py``."""
    return json.loads((FIXTURES / "golden.json").read_text())


@pytest.fixture(scope="session")
def seeded():
    return seeded_tensors


@pytest.fixture(scope="session")
def images():
    return seeded_images


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published weights, for tests that need the real ones."""
    folder = Path(os.environ.get("NOMADIFF_DATA", "")) / "detectors"
    if "NOMADIFF_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set NOMADIFF_DATA to a folder with detectors/resnet56-4bfd9763.th and detectors/lpips_*.pth")
    return folder
