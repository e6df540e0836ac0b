"""Guidance that looks inside networks: merged weights, shared encoders, perturbed attention."""

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.merge import merged
from nomadiff.guidance.perturbed_attention import PerturbedAttention, attention_blocks
from nomadiff.guidance.shared_encoder import SharedEncoder, decoder_end, end_share, own_share, shared_layers
from nomadiff.networks import edm2, layers
from nomadiff.networks.flops import flops_of
from nomadiff.networks.presets import NETWORKS

ARCHITECTURES = ("ddpmpp", "ncsnpp", "adm", "edm2")


# merged weights


def test_merged_weights_follow_the_formula(network):
    base, own, advanced = network(0), network(1), network(2)
    result = dict(merged(base, (own, 0.7), (advanced, -0.4)).named_parameters())
    for (name, theta), (_, a), (_, b) in zip(
        base.named_parameters(), own.named_parameters(), advanced.named_parameters()
    ):
        expected = (1 + 0.7 - 0.4) * theta.double() - 0.7 * a.double() + 0.4 * b.double()
        torch.testing.assert_close(result[name].double(), expected, rtol=0, atol=1e-6)


def test_merging_with_weight_0_or_with_itself_changes_nothing(network, noisy):
    base = network(0)
    for result in (merged(base, (network(1), 0.0)), merged(base, (network(0), 3.0)), merged(base)):
        assert torch.equal(result(*noisy), base(*noisy))
        assert not result.training and not any(parameter.requires_grad for parameter in result.parameters())
    assert merged(base, (network(1), 0.0)) is not base


def test_buffers_are_the_base_models(network):
    base, other = network(0, "edm2"), network(1, "edm2")
    other.network.emb_fourier.freqs += 1
    assert torch.equal(merged(base, (other, 1.0)).network.emb_fourier.freqs, base.network.emb_fourier.freqs)


def test_half_precision_is_merged_in_float32(network):
    """In float16, w (theta_r - theta_s) of two near models would be rounded away."""
    base, other = network(0), network(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    exact = merged(base, (other, 1.5))
    half = merged(base.half(), (other.half(), 1.5))
    for one, two in zip(exact.parameters(), half.parameters()):
        assert two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)


def test_other_architectures_cannot_be_merged(network):
    with pytest.raises(UsageError, match="differ in network"):
        merged(network(0), (network(0, sources=2), 1.0))
    with pytest.raises(UsageError, match="differ in network"):
        merged(network(0), (network(0, "adm"), 1.0))


# shared encoders


def with_other_end(network, architecture, shared, **labels):
    """Two denoisers whose decoders agree in the first ``shared`` layers."""
    base, auxiliary, other = (network(seed, architecture, **labels) for seed in (0, 0, 1))
    names = [name for name in base.network.dec if "_aux_" not in name]
    for name in names[shared:]:
        auxiliary.network.dec[name].load_state_dict(other.network.dec[name].state_dict())
    for name, value in auxiliary.network.named_parameters():
        if (name.startswith("dec.") and "_aux_" in name) or name.startswith("out_"):
            value.data += 0.1
    return base, auxiliary


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shared", [0, 2, 4, 5, 7])
def test_shared_encoder_is_the_extrapolation(network, noisy, architecture, shared):
    base, auxiliary = with_other_end(network, architecture, shared, sources=2, classes=3)
    assert shared_layers(base, auxiliary) == shared
    guided = SharedEncoder(base, auxiliary, 1.3)
    condition = {"source": 0, "class_label": torch.tensor([0, 1, 2, 0, 1, -1])}
    expected = Extrapolation(base, auxiliary, 1.3)(*noisy, **condition)
    torch.testing.assert_close(guided(*noisy, **condition), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_shared_runs_once(network, noisy, architecture):
    base, auxiliary = with_other_end(network, architecture, 5)
    runs = {}
    for which, denoiser in (("base", base), ("auxiliary", auxiliary)):
        for side in ("enc", "dec"):
            for name, layer in getattr(denoiser.network, side).items():
                key = (which, side, name)
                layer.register_forward_pre_hook(lambda *_, key=key: runs.update({key: runs.get(key, 0) + 1}))
    SharedEncoder(base, auxiliary, 1.0)(*noisy)
    assert set(runs.values()) == {1}
    ours = [name for which, side, name in runs if which == "auxiliary" and "_aux_" not in name]
    names = [name for name in base.network.dec if "_aux_" not in name]
    assert ours == names[5:]


def test_networks_that_differ_before_the_decoder_share_nothing(network):
    base = network(0)
    assert shared_layers(base, network(1)) is None
    assert shared_layers(base, network(0, sources=2)) is None
    assert shared_layers(base, network(0, "adm")) is None
    other = network(0)
    other.sigma_data = 0.7
    assert shared_layers(base, other) is None
    with pytest.raises(UsageError, match="no encoder to share"):
        SharedEncoder(base, network(1), 1.0)


def test_equal_networks_share_all_layers(network, noisy):
    base, same = network(0), network(0)
    assert shared_layers(base, same) == len([name for name in base.network.dec if "_aux_" not in name])
    assert torch.equal(SharedEncoder(base, same, 2.0)(*noisy), base(*noisy))


def test_autocast_of_the_base_holds_within(network, noisy):
    base, auxiliary = with_other_end(network, "ddpmpp", 4)
    guided = SharedEncoder(base, auxiliary, 1.0)
    exact = guided(*noisy)
    base.autocast = torch.bfloat16
    assert not torch.equal(guided(*noisy), exact)
    assert guided(*noisy).dtype == torch.float32


@pytest.mark.parametrize("name", NETWORKS)
def test_a_guided_step_with_a_shared_encoder_costs_at_most_half_more(name):
    config = NETWORKS[name]
    end = decoder_end(config)
    from nomadiff.networks.build import build_network

    with torch.device("meta"):
        state = build_network(config).state_dict()
    names = list(dict.fromkeys(key.split(".")[1] for key in state if key.startswith("dec.") and "_aux_" not in key))
    shared = len(names) - sum(prefix.startswith("dec.") and "_aux_" not in prefix for prefix in end)
    assert own_share(config, 0, shared) <= 0.5 < own_share(config, 0, shared - 1)
    trained = [key for key in state if key.startswith(tuple(f"{prefix}" for prefix in end))]
    assert trained and not any(key.startswith(("enc.", "map_", "emb_")) for key in trained)
    # every parameter behind the split is among them
    assert {key for key in state if key.startswith("dec.") and key.split(".")[1] in names[shared:]} <= set(trained)
    assert {key for key in state if "_aux_" in key and key.startswith("dec.")} <= set(trained)
    assert {key for key in state if key.startswith("out_")} <= set(trained)


def test_operations_add_up_to_the_whole(network):
    config = NETWORKS["cifar10"]
    assert flops_of(config) == pytest.approx(42.38e9, rel=1e-3)
    assert own_share(config, 0, 0) == pytest.approx(0.675, abs=0.001)  # the decoder is not half of the network
    assert 0 < own_share(config, 0, len([1 for _ in decoder_end(config, most=1.0)]) - 2) < 0.01


# perturbed attention


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_perturbed_attention_is_the_network_with_the_identity_as_attention(network, noisy, architecture, monkeypatch):
    denoiser = network(0, architecture)
    perturbed = PerturbedAttention(denoiser, attention_blocks(denoiser))(*noisy)
    plain = denoiser(*noisy)

    def identity(query, key, value):
        return value

    for module in (layers, edm2):
        monkeypatch.setattr(module, "F", _Replaced(module.F, identity), raising=True)
    torch.testing.assert_close(perturbed, denoiser(*noisy), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(perturbed, plain, rtol=1e-3)


class _Replaced:
    """torch.nn.functional with another attention."""

    def __init__(self, functional, attention):
        self._functional = functional
        self.scaled_dot_product_attention = attention

    def __getattr__(self, name):
        return getattr(self._functional, name)


def test_the_network_is_left_as_it_was(network, noisy):
    denoiser = network(0)
    before = denoiser(*noisy)
    perturbed = PerturbedAttention(denoiser)
    assert perturbed.blocks == ("enc.4x4_block0", "dec.4x4_in0", "dec.4x4_block1")
    perturbed(*noisy)
    assert torch.equal(denoiser(*noisy), before)
    with pytest.raises(UsageError):
        perturbed(*noisy, source=1)  # an error inside leaves no hook behind
    assert torch.equal(denoiser(*noisy), before)


def test_unknown_blocks_are_named(network):
    with pytest.raises(UsageError, match=r"no attention in dec\.8x8_up: it attends in enc\.4x4_block0"):
        PerturbedAttention(network(0), ["dec.8x8_up"])


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet64-adm"])
def test_the_ends_share_is_what_a_copy_of_it_adds_to_a_step(name):
    config = NETWORKS[name]
    share = end_share(config)
    assert 0 < share <= 0.5
    assert share > end_share(config, most=0.2)
    assert end_share(config, most=1.0) == own_share(config, 0, 0)
