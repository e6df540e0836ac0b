"""Small networks with weights that make a difference (fresh ones end in layers that are nearly zero)."""

import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig

CONFIGS = {
    "ddpmpp": NetworkConfig("ddpmpp", 8, 1, 8, (1, 2), 1, (4,)),
    "ncsnpp": NetworkConfig("ncsnpp", 8, 1, 8, (1, 2), 1, (4,)),
    "adm": NetworkConfig("adm", 8, 1, 8, (1, 2), 1, (8, 4), channels_per_head=8),
    "edm2": NetworkConfig("edm2", 8, 1, 8, (1, 2), 1, (4,), channels_per_head=8),
}


def randomise(module, seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture
def network():
    """Make a denoiser: ``network(seed, architecture="ddpmpp", sources=0, classes=0)``."""

    def make(seed=0, architecture="ddpmpp", sources=0, classes=0):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # EDM2's fixed frequencies belong to the architecture, not to the seed
            denoiser = EDMDenoiser(
                build_network(CONFIGS[architecture], sources + classes), sources=sources, classes=classes
            )
        randomise(denoiser, seed)
        return denoiser.eval().requires_grad_(False)

    return make


@pytest.fixture
def noisy():
    """Six noisy images and their noise levels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 8, 8, generator=generator), torch.tensor([0.05, 0.2, 0.5, 0.9, 3.0, 20.0])
