"""Power-function averages: reference numbers, what a width means, and averages rebuilt after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.training.phema import PowerEMA, combine, exponent_of_std, post_hoc_factors, std_of_exponent

REFERENCE = Path(__file__).parent.parent / "fixtures" / "parity" / "edm2_tiny.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as arrays:
        return {key: arrays[key] for key in arrays.files if key.startswith("phema")}


def one_weight() -> torch.nn.Module:
    return torch.nn.Linear(1, 1, bias=False).double()


def follow(trajectory: np.ndarray, batch: int, stds: list[float]) -> np.ndarray:
    """The averages of a weight after every step, ``(steps, len(stds))``."""
    module = one_weight()
    ema = PowerEMA(module, stds)
    rows = []
    for step, value in enumerate(trajectory):
        module.weight.data.fill_(value)
        ema.update(step * batch, batch)
        rows.append([average.weight.item() for average in ema.modules])
    return np.array(rows)


def test_averages_of_a_trajectory_agree_with_the_original(reference: dict[str, np.ndarray]) -> None:
    ours = follow(reference["phema_weight"], int(reference["phema_batch"]), reference["phema_stds"].tolist())
    assert np.abs(ours - reference["phema_ema"]).max() < 1e-6


def test_post_hoc_factors_agree_with_the_original(reference: dict[str, np.ndarray]) -> None:
    factors = post_hoc_factors(
        reference["phema_posthoc_in_ofs"].tolist(),
        reference["phema_posthoc_in_std"].tolist(),
        int(reference["phema_posthoc_out_ofs"]),
        float(reference["phema_posthoc_out_std"]),
    )
    assert np.abs(factors - reference["phema_posthoc_coefs"][:, 0]).max() < 1e-12


@pytest.mark.parametrize("std", [0.001, 0.01, 0.05, 0.1, 0.2, 0.287])
def test_exponent_and_width_are_inverse(std: float) -> None:
    assert std_of_exponent(exponent_of_std(std)) == pytest.approx(std, rel=1e-6)
    assert exponent_of_std(std) > 0


def test_known_exponents() -> None:
    """Karras et al. 2024, section 3: widths 0.05 and 0.10 are exponents 16.97 and 6.94."""
    assert exponent_of_std(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of_std(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("std", [0.05, 0.15])
def test_width_is_the_spread_of_the_weighting(std: float) -> None:
    """The average of a unit pulse at each time is that time's weight: its spread over the training is ``std``."""
    steps = 2000
    exponent = exponent_of_std(std)
    # the pulse response by the recursion: (1 - beta_k) times all later betas
    times = np.arange(1, steps + 1)
    betas = (1 - 1 / times) ** (exponent + 1)
    response = (1 - betas) * np.append(np.cumprod(betas[::-1])[::-1][1:], 1)
    position = (times - 0.5) / steps
    mean = (response * position).sum()
    assert response.sum() == pytest.approx(1)
    assert np.sqrt((response * (position - mean) ** 2).sum()) == pytest.approx(std, rel=0.01)
    pulse = np.zeros(50)
    pulse[30] = 1
    betas = (1 - 1 / np.arange(1, 51)) ** (exponent + 1)
    assert follow(pulse, 4, [std])[-1, 0] == pytest.approx((1 - betas[30]) * betas[31:].prod(), rel=1e-9)


def test_the_first_step_copies_the_weights_and_constant_weights_stay() -> None:
    rows = follow(np.full(20, 3.0), 8, [0.05, 0.1])
    assert np.allclose(rows, 3.0, atol=1e-12)


def test_averages_are_apart_from_the_module_and_take_no_gradient() -> None:
    module = one_weight()
    ema = PowerEMA(module, [0.1])
    module.weight.data.fill_(5)
    assert ema.modules[0].weight.item() != 5
    assert not ema.modules[0].weight.requires_grad and not ema.modules[0].training


@pytest.mark.parametrize(("std", "tolerance"), [(0.05, 1e-3), (0.075, 5e-3), (0.10, 1e-3), (0.15, 0.05)])
def test_an_average_that_was_never_kept_is_rebuilt(std: float, tolerance: float) -> None:
    """Snapshots of widths 0.05 and 0.10, 16 times along a noisy training, give any other width of its end."""
    rng = np.random.default_rng(0)
    steps, every = 1600, 100
    trajectory = np.cumsum(rng.normal(size=steps)) / np.sqrt(steps) + 0.5 * rng.normal(size=steps)
    kept = follow(trajectory, 1, [0.05, 0.10, std])
    ends = np.arange(every, steps + 1, every)
    times = [float(end) for end in ends for _ in range(2)]
    factors = post_hoc_factors(times, [0.05, 0.10] * len(ends), steps, std)
    states = [{"w": torch.tensor([kept[end - 1, i]])} for end in ends for i in range(2)]
    rebuilt = combine(states, factors)["w"].item()
    assert factors.sum() == pytest.approx(1)
    assert rebuilt == pytest.approx(kept[-1, 2], abs=tolerance)
    # the test could not fail if all averages were nearly the same
    assert abs(kept[-1, 0] - kept[-1, 1]) > 0.02


def test_long_training_does_not_overflow() -> None:
    times = [1e9 * (i + 1) for i in range(20)]
    factors = post_hoc_factors(times * 2, [0.01] * 20 + [0.1] * 20, 2e10, 0.02)
    assert np.isfinite(factors).all()


def test_combine_reads_half_precision_and_keeps_counters() -> None:
    states = [{"w": torch.full((2,), v).half(), "n": torch.tensor(i)} for i, v in enumerate((1.0, 2.0))]
    out = combine(states, [0.25, 0.75])
    assert out["w"].dtype == torch.float32 and out["w"].tolist() == [1.75, 1.75]
    assert out["n"].item() == 1
    with pytest.raises(ValueError, match="longer"):
        combine(states, [0.1, 0.2, 0.7])


@pytest.mark.parametrize("std", [0.0, -0.1, 0.29, float("nan")])
def test_impossible_widths(std: float) -> None:
    with pytest.raises(UsageError, match=r"between 0 and 0\.288"):
        exponent_of_std(std)


@pytest.mark.parametrize(
    ("times", "stds", "message"),
    [
        ([], [], "one width for each stored average"),
        ([10], [0.05, 0.1], "got 1 averages and 2 widths"),
        ([0, 10], [0.05, 0.05], "at least one image"),
        ([10, 10], [0.05, 0.05], "given twice"),
    ],
)
def test_impossible_reconstructions(times: list[float], stds: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        post_hoc_factors(times, stds, 10, 0.07)
