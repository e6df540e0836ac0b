"""NCSN++ and ADM against numbers computed with the original EDM code (tests/fixtures/parity, see its README)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.networks.build import build_network, load_edm_state
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.flops import parameters_of
from nomadiff.networks.presets import NETWORKS

DrawnWeights = Callable[..., dict[str, torch.Tensor]]
FIXTURES = Path(__file__).parent.parent / "fixtures" / "parity"

CONFIGS = {
    "edm_ncsnpp_tiny": NetworkConfig("ncsnpp", 16, 3, 8, (1, 2, 2), 1, (8,), dropout=0.1, augment_dim=9),
    "edm_adm_tiny": NetworkConfig("adm", 8, 1, 32, (1, 4), 1, (4,), dropout=0.1, augment_dim=9),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_denoised(name: str, drawn_weights: DrawnWeights) -> None:
    torch.set_num_threads(1)
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        reference = {key: arrays[key] for key in arrays.files}
    shapes = json.loads(str(reference.pop("names")))
    reference.pop("config")
    values = {key: torch.from_numpy(value) for key, value in reference.items()}
    network = build_network(CONFIGS[name], 2)
    assert {f"model.{key}" for key in network.state_dict()} == set(shapes)
    load_edm_state(network, drawn_weights(shapes, frequency=16))
    denoiser = EDMDenoiser(network, sources=2).eval()
    source = values["labels"].argmax(dim=1)
    for expected, augment in (("denoised", None), ("denoised_augmented", values["augment_labels"])):
        out = denoiser(values["x"], values["sigma"], source=source, augment=augment)
        assert (out - values[expected]).abs().max() < 1e-5
    # the fixture would prove nothing if the network hardly contributed
    other = denoiser(values["x"], values["sigma"], source=1 - source)
    assert (other - values["denoised"]).std() > 0.01
    assert (values["denoised_augmented"] - values["denoised"]).std() > 0.01


@pytest.mark.parametrize(
    ("name", "label_dim", "millions"),
    [("cifar10-ncsnpp", 0, 56.40), ("imagenet64-adm", 1000, 295.90)],
)
def test_parameter_counts(name: str, label_dim: int, millions: float) -> None:
    with torch.device("meta"):
        network = build_network(NETWORKS[name], label_dim)
    assert round(parameters_of(network) / 1e6, 2) == millions


@pytest.mark.parametrize("name", CONFIGS)
def test_fresh_network_is_close_to_zero_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    network = build_network(config, 2)
    x = torch.randn(2, config.channels, config.resolution, config.resolution)
    assert network(x, torch.zeros(2), torch.eye(2)).abs().max() < 1e-3
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network(x, torch.randn(2), torch.eye(2), torch.randn(2, 9)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_encoder_and_decoder_can_be_called_apart(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    network = build_network(config, 2).eval()
    x = torch.randn(2, config.channels, config.resolution, config.resolution)
    emb = network.embed(torch.zeros(2), torch.eye(2))
    skips = network.encode(x, emb)
    count = len(skips)
    assert torch.equal(network.decode(skips, emb), network(x, torch.zeros(2), torch.eye(2)))
    assert len(skips) == count


def test_adm_gives_a_source_beside_classes_the_scale_it_has_alone() -> None:
    network = build_network(CONFIGS["edm_adm_tiny"], 2 + 1000)
    seen: list[torch.Tensor] = []
    network.map_label.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    EDMDenoiser(network, sources=2, classes=1000)(torch.zeros(1, 1, 8, 8), 1.0, source=1, class_label=7)
    assert seen[0].nonzero().tolist() == [[0, 1], [0, 9]] and seen[0].sum() == 2
