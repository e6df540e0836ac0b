import my_parts  # noqa: F401 - its solver is used by name
import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.oracles import GaussianDenoiser, IdealDenoiser
from nomadiff.sampling.noise_levels import karras_levels
from nomadiff.sampling.sampler import SamplerConfig, draw, drawn_classes, to_uint8
from nomadiff.sampling.solvers import SOLVERS, Churn, ddpm, euler, heun
from nomadiff.seeding import SampleNoise

EVERY = (*SOLVERS, "my_parts:midpoint")  # and a user's


def wide_gaussian():
    """Curved enough a solution that a solver's order shows: data spread equals a mid noise level."""
    return GaussianDenoiser(mean=0.3, variance=0.25)


def test_levels_are_edm_equation_5():
    levels = karras_levels(18)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels[:-1], expected, rtol=1e-12)
    assert levels[-1] == 0
    assert len(karras_levels(1)) == 2


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"steps": 4, "sigma_min": 0}, {"steps": 4, "sigma_min": 5, "sigma_max": 1}, {"steps": 4, "rho": 0}],
)
def test_levels_refuse_nonsense(bad):
    with pytest.raises(UsageError):
        karras_levels(**bad)


@pytest.mark.parametrize(("solver", "order"), [(heun, 2), (euler, 1)])
def test_solvers_converge_at_their_order(solver, order):
    """On the Gaussian oracle the exact solution is known: halving the step divides the error by 2**order.

    Levels end above zero so that the last step is of full order too; steps stay few enough that the error is far above
    the float32 the denoiser is called in.
    """
    oracle = wide_gaussian()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]

    def error(steps):
        levels = torch.linspace(2.0, 0.4, steps + 1, dtype=torch.float64)
        return (solver(oracle, x, levels) - oracle.solution(x, 2.0, 0.4)).abs().max().item()

    assert error(32) > 1e-5
    assert abs(np.log2(error(16) / error(32)) - order) < 0.1


@pytest.mark.parametrize("name", EVERY)
def test_every_solver_reaches_the_data_distribution(name):
    """From pure noise, each solver must end with the oracle's mean and variance."""
    config = SamplerConfig(solver=name, steps=512 if name in ("euler", "ddpm") else 32)
    x = torch.cat(list(draw(wide_gaussian(), (4,), range(4000), seed=5, config=config, batch_size=1000)))
    assert abs(x.mean().item() - 0.3) < 0.02
    assert abs(x.std().item() - 0.5) < 0.02


@pytest.mark.parametrize("solver", [heun, euler])
def test_churn_keeps_the_distribution(solver):
    config = SamplerConfig(
        solver=solver.__name__, steps=64 if solver is heun else 512, churn=Churn(amount=20, minimum=0.05, maximum=50)
    )
    x = torch.cat(list(draw(wide_gaussian(), (4,), range(4000), seed=6, config=config, batch_size=1000)))
    assert abs(x.mean().item() - 0.3) < 0.02
    assert abs(x.std().item() - 0.5) < 0.02


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_nfe_is_what_is_called(name, steps):
    calls = []

    def counting(x, sigma, **condition):
        calls.append(sigma)
        assert x.dtype == torch.float32
        assert sigma.shape == (x.shape[0],)
        return wide_gaussian()(x, sigma)

    config = SamplerConfig(solver=name, steps=steps)
    list(draw(counting, (2,), range(3), seed=0, config=config))
    assert len(calls) == config.nfe


def test_papers_nfe():
    assert SamplerConfig(steps=18).nfe == 35
    assert SamplerConfig(steps=40).nfe == 79


@pytest.mark.parametrize("name", EVERY)
def test_sample_depends_on_seed_and_index_only(name):
    config = SamplerConfig(solver=name, steps=8, churn=Churn(amount=4 if name != "ddpm" else 0))
    whole = torch.cat(list(draw(wide_gaussian(), (3, 4), range(64), seed=3, config=config, batch_size=64)))
    for batch_size in (1, 7):
        parts = torch.cat(list(draw(wide_gaussian(), (3, 4), range(64), seed=3, config=config, batch_size=batch_size)))
        assert torch.equal(whole, parts)
    picked = torch.cat(list(draw(wide_gaussian(), (3, 4), [40, 2], seed=3, config=config)))
    assert torch.equal(picked, whole[[40, 2]])
    other = torch.cat(list(draw(wide_gaussian(), (3, 4), range(64), seed=4, config=config)))
    assert not torch.isclose(other, whole).any()


def test_ideal_denoiser_returns_training_samples():
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.2, -0.9]])
    x = torch.cat(list(draw(IdealDenoiser(data), (2,), range(60), seed=1, batch_size=60)))
    assert torch.cdist(x, data).min(dim=1).values.max() < 1e-2


def test_class_is_drawn_per_sample_and_can_be_fixed():
    seen = []

    def conditional(x, sigma, *, class_label):
        seen.append(class_label)
        return torch.zeros_like(x)

    list(
        draw(
            conditional, (2,), range(500), seed=0, config=SamplerConfig(steps=1), batch_size=500, class_weights=[1] * 5
        )
    )
    assert set(seen[0].tolist()) == {0, 1, 2, 3, 4}
    list(draw(conditional, (2,), range(5), seed=0, config=SamplerConfig(steps=1), class_weights=[0, 0, 0, 1, 0]))
    assert seen[1].tolist() == [3] * 5


def test_classes_are_drawn_by_their_weights_from_the_streams_of_the_samples():
    drawn = drawn_classes(SampleNoise(3, range(4000)), [0, 3, 0, 1], 4000)
    assert set(drawn.tolist()) == {1, 3} and abs(float((drawn == 1).float().mean()) - 0.75) < 0.03
    assert drawn_classes(SampleNoise(3, range(100, 200)), [0, 3, 0, 1], 100).tolist() == drawn[100:200].tolist()
    # equal weights draw what a uniform draw of integers does: samples of older models stay what they were
    uniform = SampleNoise(3, range(50)).integers(7)
    assert torch.equal(drawn_classes(SampleNoise(3, range(50)), [1] * 7, 50), uniform)


def test_stochastic_solvers_ask_for_noise():
    x = torch.zeros(1, 2)
    with pytest.raises(UsageError, match="noise="):
        ddpm(wide_gaussian(), x, karras_levels(2))
    with pytest.raises(UsageError, match="noise="):
        heun(wide_gaussian(), x, karras_levels(2), churn=Churn(amount=1))
    with pytest.raises(UsageError, match="churn"):
        ddpm(wide_gaussian(), x, karras_levels(2), SampleNoise(0, [0]), Churn(amount=1))


def test_config_round_trip_and_errors():
    config = SamplerConfig(solver="euler", steps=5, churn=Churn(amount=2, maximum=7))
    assert SamplerConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UsageError, match="choose one of heun, euler, ddpm"):
        SamplerConfig(solver="huen")


def test_uint8_rule():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(pixels.float() / 127.5 - 1), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
