"""EDM2's weights count up to their magnitude: what a merged model does must not depend on how they were stored."""

from __future__ import annotations

import copy

import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.merge import merged
from nomadiff.guidance.strength import check_guidance
from nomadiff.improve.settings import Improvement
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.edm2 import MPConv

TINY = NetworkConfig("edm2", 8, 3, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2)


def denoiser(seed: int) -> EDMDenoiser:
    torch.manual_seed(seed)
    network = build_network(TINY)
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.constant_(parameter, 0.5)
    return EDMDenoiser(network).eval().requires_grad_(False)


def stored_otherwise(one: EDMDenoiser, factor: float) -> EDMDenoiser:
    """The same function: every output channel of every layer times a number of its own."""
    other = copy.deepcopy(one)
    for module in other.modules():
        if isinstance(module, MPConv):
            size = (len(module.weight), *[1] * (module.weight.ndim - 1))
            module.weight.data *= factor * (0.5 + torch.rand(size))
    return other


@pytest.mark.parametrize("factor", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("count", [1, 2])
def test_it_does_not_matter_how_weights_were_stored(factor: float, count: int) -> None:
    base, others = denoiser(0), [denoiser(seed + 1) for seed in range(count)]
    x = torch.randn(2, 3, 8, 8)
    expected = merged(base, *[(other, 0.8) for other in others])(x, 1.0)
    for again in (
        merged(stored_otherwise(base, factor), *[(other, 0.8) for other in others]),
        merged(base, *[(stored_otherwise(other, factor), 0.8) for other in others]),
    ):
        torch.testing.assert_close(again(x, 1.0), expected, rtol=1e-4, atol=1e-4)


def test_a_copy_stored_otherwise_is_the_base() -> None:
    base = denoiser(0)
    x = torch.randn(2, 3, 8, 8)
    found = merged(base, (stored_otherwise(base, 0.5), 3.0))
    torch.testing.assert_close(found(x, 1.0), base(x, 1.0), rtol=1e-3, atol=1e-3)
    kept = merged(base, (denoiser(1), 0.0)).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in base.state_dict().items())


def test_what_overflows_is_refused() -> None:
    base, other = denoiser(0), denoiser(1)
    other.network.out_gain.data.fill_(3e38)
    with pytest.raises(UsageError, match=r"out_gain is not finite"):
        merged(base, (other, 5.0))
    for weight in (float("nan"), float("inf"), -float("inf"), 1e308):
        with pytest.raises(UsageError, match="guidance weight"):
            check_guidance(weight, None)
        with pytest.raises(UsageError):
            Improvement(weight=weight)
        with pytest.raises(UsageError):
            Improvement(weight_limit=weight)
