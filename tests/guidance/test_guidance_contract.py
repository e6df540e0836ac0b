"""The contract of every guidance denoiser. A new one gets a line in CASES."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from nomadiff.denoiser import BoundDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.gradient import ClassifierGuidance, DiscriminatorGuidance
from nomadiff.guidance.guided import evaluations_of
from nomadiff.guidance.label_guidance import ClassifierFreeGuidance, SourceGuidance
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.guidance.shared_encoder import SharedEncoder
from nomadiff.sampling.sampler import SamplerConfig, draw
from nomadiff.sampling.solvers import heun


@dataclass
class Case:
    """A guidance, what it must equal without guidance, what it costs, and how to count calls of its auxiliary part."""

    guided: Any
    base: Any
    calls: list
    evaluations: float
    condition: dict


class Counted:
    """Any callable, with the number of rows of each call."""

    def __init__(self, inner, calls):
        self.inner, self.calls = inner, calls

    def __call__(self, x, *args, **kwargs):
        self.calls.append(len(x))
        return self.inner(x, *args, **kwargs)


def extrapolation(network, weight, interval):
    base, calls = network(0), []
    return Case(Extrapolation(base, Counted(network(1), calls), weight, interval), base, calls, 2, {})


def extrapolation_with_labels(network, weight, interval):
    base, calls = network(0, sources=2, classes=3), []
    auxiliary = Counted(network(1, sources=2, classes=3), calls)
    condition = {"source": 0, "class_label": torch.tensor([0, 1, 2, 0, 1, 2])}
    return Case(Extrapolation(base, auxiliary, weight, interval), base, calls, 2, condition)


def shared_encoder(network, weight, interval):
    base, auxiliary, calls = network(0), network(0), []
    with torch.no_grad():
        auxiliary.network.dec["8x8_block1"].conv1.weight += 0.1
    auxiliary.network.dec["8x8_block1"].register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    guided = SharedEncoder(base, auxiliary, weight, interval)
    return Case(guided, base, calls, guided.guided_evaluations(1.0), {})


def source_guidance(network, weight, interval):
    denoiser, calls = network(0, sources=3, classes=2), []
    guided = SourceGuidance(denoiser, weight, source=2, interval=interval)
    denoiser.register_forward_pre_hook(note_source(calls), with_kwargs=True)
    return Case(guided, BoundDenoiser(denoiser, source=0), calls, 2, {"class_label": 1})


def note_source(calls):
    def hook(module, args, kwargs):
        source = torch.as_tensor(kwargs["source"])
        if bool((source != 0).any()):
            calls.append(int((source != 0).sum()))

    return hook


def classifier_free(network, weight, interval):
    denoiser, calls = network(0, classes=4), []

    def hook(module, args, kwargs):
        hidden = int((torch.as_tensor(kwargs["class_label"]) == -1).sum())
        calls.extend([hidden] if hidden else [])

    denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    condition = {"class_label": torch.tensor([0, 1, 2, 3, 0, 1])}
    return Case(ClassifierFreeGuidance(denoiser, weight, interval=interval), denoiser, calls, 2, condition)


def perturbed_attention(network, weight, interval):
    denoiser, calls = network(0), []
    guided = perturbed_attention_guidance(denoiser, weight, interval=interval)
    guided.auxiliary = Counted(guided.auxiliary, calls)
    return Case(guided, denoiser, calls, 2, {})


def classifier(network, weight, interval):
    base, calls = network(0, classes=3), []

    def logits(x, sigma):
        return torch.stack([-(x**2).flatten(1).mean(1), x.flatten(1).mean(1), -x.flatten(1)[:, :9].mean(1)], dim=1)

    guided = ClassifierGuidance(base, Counted(logits, calls), weight, interval=interval)
    return Case(guided, base, calls, 1, {"class_label": torch.tensor([0, 1, 2, 0, 1, 2])})


def discriminator(network, weight, interval):
    base, calls = network(0), []
    logit = Counted(lambda x, sigma: -(x**2).flatten(1).mean(1) / (1 + sigma), calls)
    return Case(DiscriminatorGuidance(base, logit, weight, interval=interval), base, calls, 1, {})


def composed(network, weight, interval):
    """SIMS around classifier-free guidance: three networks' worth of work."""
    inner, auxiliary, calls = network(0, classes=3), network(1, classes=3), []
    base = ClassifierFreeGuidance(inner, 0.5)
    guided = Extrapolation(base, Counted(auxiliary, calls), weight, interval)
    return Case(guided, base, calls, 3, {"class_label": torch.tensor([0, 1, 2, 0, 1, 2])})


CASES = [
    extrapolation,
    extrapolation_with_labels,
    shared_encoder,
    source_guidance,
    classifier_free,
    perturbed_attention,
    classifier,
    discriminator,
    composed,
]


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def make(request, network):
    return lambda weight, interval=None: request.param(network, weight, interval)


def test_weight_0_is_the_base_bit_for_bit_and_calls_nothing_else(make, noisy):
    case = make(0.0)
    assert torch.equal(case.guided(*noisy, **case.condition), case.base(*noisy, **case.condition))
    assert case.calls == []
    assert case.guided.evaluations(0.5) == evaluations_of(case.base, 0.5)


def test_the_weight_has_an_effect(make, noisy):
    case = make(1.0)
    change = case.guided(*noisy, **case.condition) - case.base(*noisy, **case.condition)
    assert (change.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_estimate_is_affine_in_the_weight(make, noisy):
    """D(w) = D(0) + w (D(1) - D(0)), so -1 undoes 1."""
    plain, one, minus, two = (make(w).guided(*noisy, **make(w).condition) for w in (0.0, 1.0, -1.0, 2.0))
    torch.testing.assert_close(one + minus, 2 * plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two - plain, 2 * (one - plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 20.0])
def test_outside_the_interval_only_the_base_is_called(make, noisy, sigma):
    case = make(1.0, (0.1, 5.0))
    x, level = noisy[0], torch.tensor(sigma)
    assert torch.equal(case.guided(x, level, **case.condition), case.base(x, level, **case.condition))
    assert case.calls == []
    assert case.guided.evaluations(sigma) == evaluations_of(case.base, sigma)


def test_inside_the_interval_it_is_as_without_one(make, noisy):
    limited, free = make(1.0, (0.1, 5.0)), make(1.0)
    for sigma in (0.1, 0.5, 5.0):  # the bounds belong to it
        level = torch.full((6,), sigma)
        assert torch.equal(
            limited.guided(noisy[0], level, **limited.condition), free.guided(noisy[0], level, **free.condition)
        )
        assert limited.guided.evaluations(sigma) == free.guided.evaluations(sigma) == free.evaluations


def test_mixed_noise_levels_are_guided_row_by_row(make, noisy):
    case, free = make(1.0, (0.1, 5.0)), make(1.0)
    x, sigma = noisy
    result = case.guided(x, sigma, **case.condition)
    inside = (sigma >= 0.1) & (sigma <= 5.0)
    base, guided = case.base(x, sigma, **case.condition), free.guided(x, sigma, **free.condition)
    assert torch.equal(result[~inside], base[~inside])
    torch.testing.assert_close(result[inside], guided[inside], rtol=1e-5, atol=1e-5)
    assert case.calls and all(rows == int(inside.sum()) for rows in case.calls)


def test_shape_dtype_and_no_gradient(make, noisy):
    case = make(1.5)
    for count in (1, 6):
        x, sigma = noisy[0][:count], noisy[1][:count]
        condition = {
            name: value[:count] if isinstance(value, torch.Tensor) else value for name, value in case.condition.items()
        }
        with torch.no_grad():
            result = case.guided(x, sigma, **condition)
        assert result.shape == x.shape and result.dtype == torch.float32
        assert not result.requires_grad
    assert not torch.equal(case.guided(*noisy, **case.condition), noisy[0])


def test_labels_reach_every_network(make, noisy):
    case = make(1.0)
    for name in case.condition:
        other = {**case.condition, name: torch.zeros(6, dtype=torch.int64)}
        if name == "source":
            other[name] = torch.ones(6, dtype=torch.int64)
        first, second = case.guided(*noisy, **case.condition), case.guided(*noisy, **other)
        assert not torch.equal(first, second)
    with pytest.raises((UsageError, TypeError)):
        case.guided(*noisy, **case.condition, no_such_label=3)


def test_it_composes_with_itself_and_with_every_solver(make, network, noisy):
    case = make(0.5)
    outer = Extrapolation(case.guided, case.base, 1.0)
    expected = 2 * case.guided(*noisy, **case.condition) - case.base(*noisy, **case.condition)
    torch.testing.assert_close(outer(*noisy, **case.condition), expected)
    assert outer.evaluations(0.5) == case.evaluations + evaluations_of(case.base, 0.5)
    levels = SamplerConfig(steps=3).levels()
    assert heun(BoundDenoiser(outer, **case.condition), noisy[0].double() * 80, levels).isfinite().all()


def test_evaluations_are_what_is_counted(make, noisy):
    """The accounting against the rows that really go through the networks, over a whole sampling run."""
    case = make(1.0, (0.3, 10.0))
    config = SamplerConfig(steps=6)
    if "class_label" in case.condition or "source" in case.condition:
        condition = {name: torch.as_tensor(value).flatten()[0] for name, value in case.condition.items()}
        denoiser = BoundDenoiser(case.guided, **{name: int(value) for name, value in condition.items()})
    else:
        denoiser = case.guided
    called = []

    def recorded(x, sigma, **more):
        called.append(float(sigma[0]))
        return denoiser(x, sigma, **more)

    list(draw(recorded, (1, 8, 8), range(2), seed=0, config=config))
    assert len(called) == config.nfe
    active = [sigma for sigma in called if case.guided.evaluations(sigma) != evaluations_of(case.base, sigma)]
    inside = [sigma for sigma in called if 0.3 <= sigma <= 10.0]
    assert 0 < len(inside) < len(called)
    assert sum(case.calls) > 0 and len(case.calls) % len(inside) == 0
    if case.evaluations != evaluations_of(case.base, 1.0):
        assert active == inside


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(make, weight):
    with pytest.raises(UsageError, match="finite"):
        make(weight)


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_an_interval_that_is_none_is_refused(make, interval):
    with pytest.raises(UsageError, match="low < high"):
        make(1.0, interval)
