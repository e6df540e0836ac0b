"""EDM2's network against numbers computed with the original code, and the properties it is built for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nomadiff.denoiser import BoundDenoiser, EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.networks.build import build_network, load_edm_state
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.edm2 import MPConv, normalise
from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.networks.presets import NETWORKS
from nomadiff.sampling.noise_levels import karras_levels
from nomadiff.sampling.solvers import heun

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parity"
TINY = NetworkConfig("edm2", 16, 3, 16, (1, 2), 2, (8,), channel_mult_embedding=2, channels_per_head=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FIXTURES / "edm2_tiny.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "config"}


def original(reference: dict[str, Tensor], prefix: str) -> BoundDenoiser:
    """Our network with one of the fixture's sets of weights, its labels bound."""
    network = build_network(TINY, 4)
    state = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
    load_edm_state(network, state)
    return BoundDenoiser(EDMDenoiser(network, classes=4).eval(), class_label=reference["labels"].argmax(dim=1))


@torch.no_grad()
def test_denoised_and_log_variance(reference: dict[str, Tensor]) -> None:
    denoiser = original(reference, "state/")
    out = denoiser(reference["x"], reference["sigma"])
    assert out.dtype == torch.float32
    assert (out - reference["denoised"]).abs().max() < 1e-5
    logvar = denoiser.denoiser.network.log_variance(reference["sigma"].log() / 4)
    assert (logvar - reference["logvar"].flatten()).abs().max() < 1e-5


@torch.no_grad()
def test_heun_16_steps_alone_and_guided(reference: dict[str, Tensor]) -> None:
    base, auxiliary = original(reference, "state/"), original(reference, "aux_state/")
    sigmas = karras_levels(16)
    x = reference["latents"] * sigmas[0]
    assert (heun(base, x, sigmas) - reference["heun_16_steps"]).abs().max() < 1e-4

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        return 1.9 * base(x, sigma) - 0.9 * auxiliary(x, sigma)

    assert (heun(guided, x, sigmas) - reference["heun_16_steps_guided_w0.9"]).abs().max() < 1e-4


def test_training_pass_forced_norm_and_gradient(drawn_weights: Callable[..., dict[str, Tensor]]) -> None:
    with np.load(FIXTURES / "edm2_forced_norm_tiny.npz") as arrays:
        values = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key not in ("config", "names")}
        shapes = json.loads(str(arrays["names"]))
    network = build_network(dataclasses.replace(TINY, model_channels=8, blocks=1, channels_per_head=8), 4)
    load_edm_state(network, drawn_weights(shapes, frequency=2 * np.pi))
    denoiser = EDMDenoiser(network, classes=4).train()
    out = denoiser(values["x"], values["sigma"], class_label=values["labels"].argmax(dim=1))
    logvar = network.log_variance(values["sigma"].log() / 4)
    assert (out - values["denoised"]).abs().max() < 1e-5
    assert (logvar - values["logvar"].flatten()).abs().max() < 1e-5
    state = network.state_dict()
    compared = [key for key in values if key.startswith("after_forced_norm/")]
    for key in compared:
        name = key.removeprefix("after_forced_norm/").removeprefix("unet.")
        assert (state[name] - values[key]).abs().max() < 1e-6, name
    assert len(compared) == 5
    u = logvar[:, None, None, None]
    ((out - 0.3 * values["x"]).square() / u.exp() + u).sum().backward()
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(values["grad_norm"]), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "millions", "multiply_adds"),
    [("imagenet64-edm2-s", 280.2, 100.8), ("imagenet512-edm2-s", 280.2, 100.8), ("imagenet512-edm2-xs", 124.7, 45.0)],
)
def test_sizes(name: str, millions: float, multiply_adds: float) -> None:
    """Karras et al. 2024, Table 2: 280 M and 125 M parameters."""
    with torch.device("meta"):
        network = build_network(NETWORKS[name], 1000)
    assert round(parameters_of(network) / 1e6, 1) == millions
    assert round(flops_of(NETWORKS[name], 1000) / 2e9, 1) == multiply_adds


def test_magnitudes_are_preserved_through_every_layer() -> None:
    """With unit gains, the embedding and the activations of a random network keep their size in every layer."""
    network = build_network(dataclasses.replace(TINY, model_channels=32, channels_per_head=32), 4).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("emb_gain") or name == "out_gain":
                parameter.fill_(1)
    sizes: dict[str, float] = {}
    for name, layer in [*network.enc.items(), *network.dec.items()]:
        layer.register_forward_hook(
            lambda m, i, out, name=name: sizes.update({name: float(out.square().mean().sqrt())})
        )
    with torch.no_grad():
        emb = network.embed(torch.randn(64), torch.eye(4)[torch.randint(4, (64,))])
        out = network.decode(network.encode(torch.randn(64, 3, 16, 16), emb), emb)
    assert emb.square().mean().sqrt() == pytest.approx(1, abs=0.1)
    assert all(0.75 < size < 1.35 for size in sizes.values()), sizes
    assert 0.75 < out.square().mean().sqrt() < 1.35


def test_training_keeps_weights_at_unit_magnitude_whatever_the_optimizer_did() -> None:
    network = build_network(TINY, 4)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, MPConv)}
    assert len(layers) > 20
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.mul_(37)
    kept = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    images, noise, labels = torch.randn(1, 3, 16, 16), torch.zeros(1), torch.eye(4)[:1]
    network.eval()(images, noise, labels)
    assert all(torch.equal(layer.weight, kept[name]) for name, layer in layers.items())
    network.train()(images, noise, labels)
    network.log_variance(noise)
    for name, layer in layers.items():
        dims = tuple(range(1, layer.weight.ndim))
        assert torch.equal(layer.weight, normalise(kept[name], dims)), name
        assert torch.allclose(layer.weight.square().mean(dim=dims).sqrt(), torch.ones(()), atol=2e-3), name


def test_scaling_a_weight_changes_nothing() -> None:
    layer = MPConv(8, 16).eval()
    x = torch.randn(3, 8)
    out = layer(x)
    with torch.no_grad():
        layer.weight.mul_(5)
    assert torch.allclose(layer(x), out, atol=1e-3)


def test_source_and_class_together_are_of_unit_magnitude() -> None:
    """The label vector reaches its layer with norm sqrt(width) whether it is one label, two, or one left out."""
    network = build_network(TINY, 2 + 1000).eval()
    seen: list[Tensor] = []
    network.emb_label.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    denoiser = EDMDenoiser(network, sources=2, classes=1000)
    denoiser(torch.zeros(3, 3, 16, 16), 1.0, source=torch.tensor([0, 1, 1]), class_label=torch.tensor([5, -1, 999]))
    assert torch.allclose(seen[0].norm(dim=1), torch.full((3,), 1002.0).sqrt())
    assert [row.nonzero().flatten().tolist() for row in seen[0]] == [[0, 7], [1], [1, 1001]]
    assert seen[0][0, 0] == seen[0][0, 7]


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_output_depends_on_the_label_vector_differentiably(architecture: str) -> None:
    """What the training loop's probe looks at; a fresh ADM or EDM2 is exactly zero, so its weights are moved first."""
    network = build_network(dataclasses.replace(TINY, architecture=architecture), 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    labels = torch.eye(2, requires_grad=True)
    network(torch.randn(2, 3, 16, 16), torch.zeros(2), labels).square().sum().backward()
    assert labels.grad is not None and labels.grad.ne(0).all()


def test_no_class_is_a_zero_label() -> None:
    network = build_network(TINY, 4).eval()
    with torch.no_grad():
        emb = network.embed(torch.zeros(1), torch.zeros(1, 4))
    assert emb.isfinite().all()


def test_fresh_network_is_zero_and_every_parameter_learns() -> None:
    network = build_network(TINY, 4)
    x, noise_label, labels = torch.randn(4, 3, 16, 16), torch.randn(4), torch.eye(4)
    assert not network(x, noise_label, labels).any()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.5)
    out = network(x, noise_label, labels)
    u = network.log_variance(noise_label)[:, None, None, None]
    ((out - x).square() / u.exp() + u).mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_encoder_and_decoder_can_be_called_apart() -> None:
    network = build_network(TINY, 4).eval()
    with torch.no_grad():
        network.out_gain.fill_(1)
    x, noise_label, labels = torch.randn(4, 3, 16, 16), torch.randn(4), torch.eye(4)
    emb = network.embed(noise_label, labels)
    skips = network.encode(x, emb)
    count = len(skips)
    assert torch.equal(network.decode(skips, emb), network(x, noise_label, labels))
    assert len(skips) == count


def test_bfloat16_autocast_stays_close(reference: dict[str, Tensor]) -> None:
    denoiser = original(reference, "state/")
    denoiser.denoiser.autocast = torch.bfloat16
    with torch.no_grad():
        out = denoiser(reference["x"], reference["sigma"])
    assert out.dtype == torch.float32
    error = (out - reference["denoised"]).flatten(1).norm(dim=1) / reference["denoised"].flatten(1).norm(dim=1)
    assert error.max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment_dim": 9}, "takes no augmentation label"),
        ({"channels_per_head": 10}, "a layer of 32 channels cannot be split into attention heads of 10"),
    ],
)
def test_settings_that_cannot_be_built(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(dataclasses.replace(TINY, **change))
