"""Gradient guidance against cases known in closed form."""

import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.gradient import ClassifierGuidance, DiscriminatorGuidance
from nomadiff.oracles import GaussianDenoiser


def log_normal(x, mean, variance):
    """Log density of independent Gaussians, up to a constant: (B,)."""
    return (-0.5 * (x - mean) ** 2 / variance - 0.5 * torch.log(variance)).flatten(1).sum(1)


def test_the_perfect_discriminator_turns_the_model_into_the_data(noisy):
    """log d/(1-d) = log p_real(x; sigma) - log p_model(x; sigma): the corrected score is the real one."""
    x, sigma = noisy
    model, real = GaussianDenoiser(0.3, 0.5), GaussianDenoiser(-0.1, 0.2)

    def logit(x, sigma):
        square = sigma.reshape(-1, 1, 1, 1) ** 2
        return log_normal(x, -0.1, 0.2 + square) - log_normal(x, 0.3, 0.5 + square)

    guided = DiscriminatorGuidance(model, logit, 1.0)
    torch.testing.assert_close(guided(x, sigma), real(x, sigma), rtol=1e-4, atol=1e-4)


def test_the_perfect_classifier_turns_a_mixture_into_one_class(noisy):
    x, sigma = noisy[0].flatten(1)[:, :3].reshape(6, 3, 1, 1), noisy[1]
    means, variance = torch.tensor([-1.0, 0.5, 2.0]), 0.1

    def logits(x, sigma):
        square = variance + sigma.reshape(-1, 1, 1, 1) ** 2
        return torch.stack([log_normal(x, mean, square) for mean in means], dim=1)

    def mixture(x, sigma, **condition):
        posterior = logits(x, sigma).softmax(1)
        each = torch.stack([GaussianDenoiser(mean, variance)(x, sigma) for mean in means], dim=1)
        return (posterior[:, :, None, None, None] * each).sum(1)

    for label in range(3):
        expected = GaussianDenoiser(means[label], variance)(x, sigma)
        guided = ClassifierGuidance(mixture, logits, 1.0, class_label=label)
        torch.testing.assert_close(guided(x, sigma), expected, rtol=1e-3, atol=1e-3)
        by_call = ClassifierGuidance(mixture, logits, 1.0)
        torch.testing.assert_close(by_call(x, sigma, class_label=label), expected, rtol=1e-3, atol=1e-3)


def test_extrapolation_is_the_extrapolation_of_scores(noisy):
    x, sigma = noisy
    base, auxiliary = GaussianDenoiser(0.3, 0.5), GaussianDenoiser(-0.1, 0.2)
    square = sigma.reshape(-1, 1, 1, 1) ** 2

    def score(denoiser):
        return (denoiser(x, sigma) - x) / square

    expected = 1.7 * score(base) - 0.7 * score(auxiliary)
    torch.testing.assert_close(score(Extrapolation(base, auxiliary, 0.7)), expected, rtol=1e-3, atol=1e-3)


def test_a_class_must_be_named(noisy):
    base = GaussianDenoiser()
    with pytest.raises(UsageError, match="class_label="):
        ClassifierGuidance(base, lambda x, sigma: x.flatten(1), 1.0)(*noisy)


def test_the_weights_of_the_base_get_no_gradient(network, noisy):
    denoiser: EDMDenoiser = network(0)
    denoiser.requires_grad_(True)
    guided = DiscriminatorGuidance(denoiser, lambda x, sigma: x.flatten(1).mean(1), 1.0)
    with torch.no_grad():
        guided(*noisy)
    assert all(parameter.grad is None for parameter in denoiser.parameters())
