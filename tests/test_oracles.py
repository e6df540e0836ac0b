"""The closed-form denoisers against what they are closed forms of."""

from __future__ import annotations

import pytest
import torch

from nomadiff.oracles import GaussianDenoiser, IdealDenoiser


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_gaussian_against_monte_carlo(sigma: float) -> None:
    """D is the mean of the clean values whose noisy version fell near x."""
    clean = 0.3 + 0.6 * normal(2_000_000)
    noisy = clean + sigma * normal(2_000_000, seed=1)
    denoiser = GaussianDenoiser(0.3, 0.36)
    for x in (-0.5, 0.3, 1.0):
        near = (noisy - x).abs() < 0.02
        expected = denoiser(torch.full((1, 1), x), torch.tensor(sigma)).item()
        assert clean[near].mean().item() == pytest.approx(expected, abs=0.02)


def test_gaussian_is_the_limit_of_the_ideal_denoiser() -> None:
    """The ideal denoiser of many Gaussian samples approaches the Gaussian's: two independent formulas."""
    x = torch.tensor([[-0.8], [0.1], [0.9]])
    for sigma in (0.3, 2.0):
        ideal = IdealDenoiser(0.5 * normal(200_000, 1))(x, torch.tensor(sigma))
        assert torch.allclose(ideal, GaussianDenoiser()(x, torch.tensor(sigma)), atol=0.01)


def test_gaussian_solution_solves_the_probability_flow_equation() -> None:
    """dx/dsigma = (x - D(x, sigma)) / sigma (EDM eq. 1), by central differences."""
    denoiser = GaussianDenoiser(torch.tensor([0.2, -0.1]), torch.tensor([0.25, 1.5]))
    x = normal(5, 2).double()
    sigma, step = 0.7, 1e-5
    slope = (denoiser.solution(x, sigma, sigma + step) - denoiser.solution(x, sigma, sigma - step)) / (2 * step)
    assert torch.allclose(slope, (x - denoiser(x, torch.tensor(sigma))) / sigma, atol=1e-6)
    there = denoiser.solution(x, 80.0, 0.002)
    assert torch.allclose(denoiser.solution(there, 0.002, 80.0), x)


def test_gaussian_takes_one_sigma_a_sample_and_keeps_dtype() -> None:
    x = normal(3, 2, 4, 4).double()
    sigma = torch.tensor([0.1, 1.0, 5.0])
    denoiser = GaussianDenoiser(0, torch.linspace(0.1, 1, 32).reshape(2, 4, 4))
    out = denoiser(x, sigma, source=0)
    assert out.dtype == torch.float64 and out.shape == x.shape
    for i in range(3):
        assert torch.allclose(out[i : i + 1], denoiser(x[i : i + 1], sigma[i]))


def test_ideal_at_low_noise_returns_the_nearest_sample() -> None:
    data = normal(50, 3, 4, 4)
    x = data[[7, 31]] + 0.01 * normal(2, 3, 4, 4, seed=2)
    assert torch.equal(IdealDenoiser(data)(x, torch.tensor(1e-3)), data[[7, 31]])


def test_ideal_at_high_noise_returns_the_mean() -> None:
    data = normal(50, 3, 4, 4)
    out = IdealDenoiser(data)(normal(2, 3, 4, 4, seed=2), torch.tensor(1e4))
    assert torch.allclose(out, data.mean(dim=0).expand(2, -1, -1, -1), atol=1e-4)


def test_ideal_of_two_points_is_the_logistic_function() -> None:
    data = torch.tensor([[-1.0], [1.0]])
    x, sigma = torch.tensor([[-0.3], [0.02], [0.6]]), torch.tensor([0.5, 1.0, 2.0])
    assert torch.allclose(IdealDenoiser(data)(x, sigma), torch.tanh(x / sigma[:, None] ** 2), atol=1e-6)
