"""EDM's noise gives EDM's images, churned or not; what is not finite is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from nomadiff.errors import NomadiffError
from nomadiff.sampling.sampler import SamplerConfig, draw
from nomadiff.sampling.solvers import Churn
from nomadiff.seeding import EDMNoise


def edm_images(seed: int, churn: Churn) -> torch.Tensor:
    """One 1x2x2 image as EDM draws it: Heun, float64 noise from the seed's generator at every step, used or not."""
    generator = torch.Generator().manual_seed(seed)
    config = SamplerConfig(steps=6, churn=churn)
    sigmas = config.levels()
    x = torch.randn(1, 2, 2, generator=generator).double() * sigmas[0]
    for sigma, following in itertools.pairwise(sigmas.tolist()):
        gamma = churn.gamma(sigma, 6)
        raised = sigma * (1 + gamma)
        noise = torch.randn(1, 2, 2, generator=generator, dtype=torch.float64)
        x = x + (raised**2 - sigma**2) ** 0.5 * churn.noise * noise

        def denoised(at: torch.Tensor, level: float) -> torch.Tensor:
            return (at.float() / (1 + level**2)).double()

        slope = (x - denoised(x, raised)) / raised
        stepped = x + (following - raised) * slope
        if following > 0:
            slope = (slope + (stepped - denoised(stepped, following)) / following) / 2
        x = x + (following - raised) * slope
    return x.float()


@pytest.mark.parametrize("churn", [Churn(), Churn(40), Churn(40, 0.05, 50, 1.003), Churn(3, 1, 10)])
def test_edm_noise_gives_the_images_of_edm(churn: Churn) -> None:
    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    def stream(_: int, indices: Sequence[int]) -> EDMNoise:
        return EDMNoise(indices)

    config = SamplerConfig(steps=6, churn=churn)
    (images,) = draw(denoiser, (1, 2, 2), [5, 6], seed=0, config=config, noise_stream=stream)
    expected = torch.stack([edm_images(seed, churn) for seed in (5, 6)])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("solver", ["heun", "euler", "ddpm"])
def test_what_is_not_finite_is_never_handed_on(value: float, solver: str) -> None:
    with pytest.raises(NomadiffError, match="not finite"):
        list(draw(lambda x, sigma: x * value, (1, 2, 2), [0], seed=0, config=SamplerConfig(solver, 3)))
