import numpy as np
import torch

from nomadiff.oracles import GaussianDenoiser
from nomadiff.training.ema import ModuleEMA
from nomadiff.training.loss import edm_loss, training_levels


def test_levels_are_log_normal():
    levels = training_levels(200_000, -1.2, 1.2, torch.Generator().manual_seed(0))
    assert abs(levels.log().mean() + 1.2) < 0.01
    assert abs(levels.log().std() - 1.2) < 0.01


def test_loss_of_the_exact_denoiser_is_the_posterior_variance():
    """E|D - x0|^2 of the optimal denoiser is v s^2 / (v + s^2); the weight turns it into 1 when v = sigma_data^2."""
    generator = torch.Generator().manual_seed(1)
    clean = 0.5 * torch.randn(200_000, 1, generator=generator)
    sigma = training_levels(len(clean), -1.2, 1.2, generator)
    noise = torch.randn(clean.shape, generator=generator)
    loss = edm_loss(GaussianDenoiser(0.0, 0.25), clean, sigma, noise, sigma_data=0.5)
    assert loss.shape == clean.shape
    assert abs(loss.mean().item() - 1) < 0.01


def test_loss_passes_the_condition_on():
    seen = {}

    def denoiser(x, sigma, **condition):
        seen.update(condition)
        return x

    clean = torch.zeros(2, 1, 2, 2)
    sigma = torch.tensor([0.5, 1.0])
    loss = edm_loss(denoiser, clean, sigma, torch.ones_like(clean), source=torch.tensor([0, 1]))
    assert seen["source"].tolist() == [0, 1]
    # D(x) = x leaves the noise: weight * sigma^2 = (s^2 + sd^2) / sd^2
    np.testing.assert_allclose(loss[:, 0, 0, 0], (sigma**2 + 0.25) / 0.25)


def test_ema_half_life_and_ramp():
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema = ModuleEMA(module, half_life=100, rampup=0.05)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.update(images_seen=0, batch=10)  # the ramp starts at 0: the average is the weights
    assert ema.module.weight.item() == 1.0
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema.update(images_seen=1000, batch=50)  # half-life min(100, 50): one batch is one half-life
    assert abs(ema.module.weight.item() - 0.5) < 1e-6
    ema.update(images_seen=100_000, batch=100)  # half-life 100
    assert abs(ema.module.weight.item() - 0.25) < 1e-6
