"""The DDPM++ network's contract: sizes, parts, labels, initialisation, and settings that cannot work."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from nomadiff.errors import DataError, UsageError
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.networks.presets import NETWORKS

DIGITS = NETWORKS["digits"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def on_meta(config: NetworkConfig, label_dim: int = 0) -> torch.nn.Module:
    with torch.device("meta"):
        return build_network(config, label_dim)


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """Weights as after some training: the near-zero layers of a fresh network would hide what they pass on."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "label_dim", "millions"),
    [
        ("cifar10", 0, 55.73),
        ("ffhq64", 0, 61.81),
        ("digits", 2, 0.19),
        ("tiny", 2, 1.23),
        ("compact64", 2, 1.2),
        ("small32", 0, 6.99),
    ],
)
def test_parameter_counts(name: str, label_dim: int, millions: float) -> None:
    assert round(parameters_of(on_meta(NETWORKS[name], label_dim)) / 1e6, 2) == millions


def test_source_label_costs_one_matrix() -> None:
    width = NETWORKS["cifar10"].model_channels
    extra = parameters_of(on_meta(NETWORKS["cifar10"], 2)) - parameters_of(on_meta(NETWORKS["cifar10"]))
    assert extra == 2 * width + width


def test_encoder_and_decoder_sizes() -> None:
    """Parameters of cifar10's parts: 19.3 M encoder, 36.1 M decoder (what SIMS' decoder-only auxiliary trains)."""
    network = on_meta(NETWORKS["cifar10"])
    assert round(parameters_of(network.enc) / 1e6, 1) == 19.3
    assert round(parameters_of(network.dec) / 1e6, 1) == 36.1
    assert {name.split(".")[0].split("_")[0] for name, _ in network.named_parameters()} == {"map", "enc", "dec"}


def test_flops_of_one_convolution_dominated_network_scale_with_its_area() -> None:
    config = dataclasses.replace(NETWORKS["tiny"], attention=())
    small, large = flops_of(config), flops_of(dataclasses.replace(config, resolution=64))
    assert 3.9 < large / small < 4.3  # convolutions scale by 4, the bottleneck's attention by 16
    assert flops_of(NETWORKS["cifar10"]) == pytest.approx(42.4e9, rel=0.01)


def test_parts_compose_and_an_encoder_serves_two_decoders() -> None:
    first, second = trained(build_network(DIGITS, 2)), trained(build_network(DIGITS, 2))
    x, noise_label = torch.randn(3, 1, 8, 8), torch.randn(3)
    labels = torch.eye(2)[torch.tensor([0, 1, 0])]
    emb = first.embed(noise_label, labels)
    skips = first.encode(x, emb)
    count = len(skips)
    once = first.decode(skips, emb)
    other = second.decode(skips, emb)
    assert len(skips) == count
    assert torch.equal(first.decode(skips, emb), once)
    assert torch.equal(first(x, noise_label, labels), once)
    assert not torch.allclose(other, once)


def test_labels_noise_and_augment_label_all_matter() -> None:
    network = trained(build_network(dataclasses.replace(DIGITS, augment_dim=9), 2))
    x, noise_label, labels = torch.randn(1, 1, 8, 8), torch.zeros(1), torch.tensor([[1.0, 0.0]])
    out = network(x, noise_label, labels)
    assert not torch.allclose(out, network(x, noise_label + 1, labels))
    assert not torch.allclose(out, network(x, noise_label, labels.flip(1)))
    assert not torch.allclose(out, network(x, noise_label, labels, torch.ones(1, 9)))
    assert torch.allclose(out, network(x, noise_label, labels, torch.zeros(1, 9)), atol=1e-6)


def test_a_sample_does_not_see_its_batch() -> None:
    network = trained(build_network(DIGITS, 2))
    x, noise_label, labels = torch.randn(5, 1, 8, 8), torch.randn(5), torch.eye(2)[torch.tensor([0, 1, 0, 1, 1])]
    together = network(x, noise_label, labels)
    alone = torch.cat([network(x[i : i + 1], noise_label[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    network = trained(build_network(dataclasses.replace(DIGITS, augment_dim=9), 2))
    network(torch.randn(2, 1, 8, 8), torch.randn(2), torch.eye(2), torch.randn(2, 9)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_initial_weights() -> None:
    """Glorot uniform; the last layer of every residual branch 1e-5 of it, queries to values sqrt(0.2) of it."""
    network = build_network(NETWORKS["tiny"], 2)
    block = network.dec["8x8_in0"]
    fan = 64 * 9 + 64 * 9
    assert block.conv0.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.05)
    assert block.conv1.weight.std().item() == pytest.approx(1e-5 * math.sqrt(2 / fan), rel=0.05)
    assert block.qkv.weight.std().item() == pytest.approx(math.sqrt(0.2 * 2 / (64 + 192)), rel=0.05)
    biases = [p for name, p in network.named_parameters() if name.endswith(".bias")]
    assert biases and all(not p.any() for p in biases)
    assert network(torch.randn(1, 3, 32, 32), torch.zeros(1), torch.eye(2)[:1]).abs().max() < 1e-3


def test_dropout_acts_in_training_only() -> None:
    network = trained(build_network(dataclasses.replace(DIGITS, dropout=0.5)))
    x, noise_label = torch.randn(1, 1, 8, 8), torch.zeros(1)
    assert torch.equal(network(x, noise_label), network(x, noise_label))
    network.train()
    assert not torch.allclose(network(x, noise_label), network(x, noise_label))


def test_bfloat16_autocast_stays_close() -> None:
    network = trained(build_network(DIGITS, 2))
    x, noise_label, labels = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.eye(2)
    exact = network(x, noise_label, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, noise_label, labels)
    assert torch.allclose(rough.float(), exact, atol=0.05 * exact.std().item() + 0.05)


@pytest.mark.parametrize(
    ("labels", "augment", "message"),
    [
        (None, None, "label vector of width 2, got width 0"),
        (torch.eye(3)[:1], None, "label vector of width 2, got width 3"),
        (torch.eye(2)[:1], torch.zeros(1, 9), "augmentation label of width 0, got 9"),
    ],
)
def test_wrong_condition(labels: torch.Tensor | None, augment: torch.Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(DIGITS, 2)(torch.zeros(1, 1, 8, 8), torch.zeros(1), labels, augment)


@pytest.mark.parametrize("name", NETWORKS)
def test_config_round_trip(name: str) -> None:
    config = NETWORKS[name]
    assert NetworkConfig.from_dict(config.to_dict()) == config


def test_config_names_the_setting_that_is_wrong() -> None:
    values = DIGITS.to_dict()
    with pytest.raises(DataError, match="network: unknown setting model_chanels"):
        NetworkConfig.from_dict({**values, "model_chanels": 3})
    with pytest.raises(DataError, match=r"attention must be an integer, got 16.5"):
        NetworkConfig.from_dict({**values, "attention": [16.5]})
    with pytest.raises(DataError, match="blocks must be an integer, got 1"):
        NetworkConfig.from_dict({**values, "blocks": "1"})
    del values["blocks"]
    with pytest.raises(DataError, match="blocks is missing"):
        NetworkConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 9}, "resolution 9 cannot be halved 1 times: resize the images to a multiple of 2"),
        ({"attention": (5,)}, "attention at resolution 5 is not possible: the levels have resolution 8, 4"),
        ({"model_channels": 18}, "18 channels cannot be split into 4 groups"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"channel_mult": (0, 1)}, "channel_mult"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"augment_dim": -1}, "augment_dim"),
        ({"architecture": "vit"}, "unknown architecture 'vit'"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"patch": 8}, "resolution 8 in patches of 8 cannot be halved 1 times: resize the images to a multiple of 16"),
        ({"patch": 2, "attention": (8,)}, "attention at resolution 8 is not possible: the levels have resolution 4, 2"),
        ({"patch": 2, "attention": (), "architecture": "adm"}, "the adm network takes pixels one by one"),
    ],
)
def test_settings_that_cannot_be_built(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(dataclasses.replace(DIGITS, **change))


def test_patches_are_the_same_network_on_rearranged_pixels() -> None:
    """A network with patch 2 is one of patch 1 on ``(4 C, H / 2, W / 2)``: space to depth, and back in the end."""
    patched = dataclasses.replace(DIGITS, patch=2, attention=(2,))
    plain = dataclasses.replace(patched, patch=1, channels=4, resolution=4)
    network, other = trained(build_network(patched, 2)), build_network(plain, 2).eval()
    other.load_state_dict(network.state_dict())
    x, sigma, labels = torch.randn(3, 1, 8, 8), torch.randn(3), torch.eye(2)[[0, 1, 0]]
    rearranged = x.reshape(3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3).reshape(3, 4, 4, 4)
    expected = other(rearranged, sigma, labels).reshape(3, 2, 2, 4, 4).permute(0, 3, 1, 4, 2).reshape(3, 1, 8, 8)
    torch.testing.assert_close(network(x, sigma, labels), expected)
    assert flops_of(patched) < flops_of(DIGITS) / 3


@pytest.mark.parametrize(("resolution", "channels"), [(4, 1), (28, 1), (64, 3)])
def test_tiny_fits_any_resolution_that_is_a_multiple_of_four(resolution: int, channels: int) -> None:
    network = on_meta(dataclasses.replace(NETWORKS["tiny"], resolution=resolution, channels=channels))
    x = torch.empty(2, channels, resolution, resolution, device="meta")
    assert network(x, torch.empty(2, device="meta")).shape == x.shape


def test_frequencies_are_planned_without_the_compiler() -> None:
    """Every model is planned before it is loaded, and torch's compiler takes over a second to import."""
    code = (
        "import sys, torch; from nomadiff.networks.layers import PositionalEmbedding\n"
        "with torch.device('meta'): planned = PositionalEmbedding(64, endpoint=True, sine_first=True).frequencies\n"
        "print('torch._dynamo' in sys.modules, planned.is_meta, tuple(planned.shape), planned.dtype)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True (32,) torch.float32\n"
