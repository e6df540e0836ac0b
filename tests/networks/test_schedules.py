"""Every scheduler of diffusers that is accepted: the denoiser is what the scheduler itself makes of the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.schedules import DDPMSteps, ddpm_levels, schedule_of

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")

TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
STEPS = [0, 3, 8, 15, 19]


def pair(scheduler: Any, **network: Any) -> tuple[Any, EDMDenoiser]:
    """A network of diffusers, and the same with its scheduler as a denoiser of nomadiff."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = diffusers.UNet2DModel(**{**TINY, **network}).eval().requires_grad_(False)
    settings = json.dumps(
        {"unet": dict(unet.config), "scheduler": dict(scheduler.config) | {"_class_name": type(scheduler).__name__}}
    )
    built = build_network(NetworkConfig("unet2d", 8, 3, 8, (1, 2), 1, (), settings=settings))
    built.unet.load_state_dict(unet.state_dict())
    return unet, EDMDenoiser(built).eval().requires_grad_(False)


def noisy(sigma: Tensor | float) -> Tensor:
    return torch.randn(2, 3, 8, 8).clip(-1, 1) + sigma * torch.randn(2, 3, 8, 8)


def agree(found: Tensor, expected: Tensor, sigma: float, digits: float = 3e-5) -> None:
    torch.testing.assert_close(found, expected.float(), rtol=digits, atol=digits * max(1.0, sigma))


SIGMA_SPACE = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", [*SIGMA_SPACE, "KDPM2AncestralDiscrete"])
def test_solvers_in_sigma(name: str, prediction: str) -> None:
    """Their sample is EDM's x: scaled for the network by ``scale_model_input``, estimated in their own ``step``."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type=prediction)
    unet, denoiser = pair(scheduler)
    for index in (2, 8, 14):  # even: KDPM2 interpolates between
        scheduler.set_timesteps(20)
        scheduler._step_index = index
        sigma, time = float(scheduler.sigmas[index]), scheduler.timesteps[index]
        x = noisy(sigma)
        predicted = unet(scheduler.scale_model_input(x, time), time).sample
        if name.startswith(("Euler", "LMS")):
            kwargs = {"generator": torch.Generator().manual_seed(0)} if "Ancestral" in name else {}
            expected = scheduler.step(predicted, time, x, **kwargs).pred_original_sample
        elif prediction == "epsilon":
            expected = x - sigma * predicted
        else:
            expected = predicted * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
        # between steps the levels are interpolated, by each scheduler from its own float32 table
        agree(denoiser(x, sigma), expected, sigma, 1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"]
)
def test_solvers_of_the_ode(name: str, prediction: str) -> None:
    """Their sample is DDPM's x, shrunk; ``convert_model_output`` gives the estimate of the image."""
    options = {"algorithm_type": "dpmsolver++"} if name.startswith("DPM") else {}
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type=prediction, **options)
    unet, denoiser = pair(scheduler)
    scheduler.set_timesteps(20)
    for index in (0, 8, 18):
        scheduler._step_index = index
        sigma, time = float(scheduler.sigmas[index]), scheduler.timesteps[index]
        x = noisy(sigma)
        shrunk = x / (1 + sigma**2) ** 0.5
        predicted = unet(shrunk, time).sample
        expected = scheduler.convert_model_output(predicted, sample=shrunk)
        if name == "DEISMultistep":  # it goes on to the noise
            expected = x - sigma * expected
        agree(denoiser(x, sigma), expected, sigma, 1e-3)


@pytest.mark.parametrize("name", ["DDPM", "DDPMParallel", "DDIM", "DDIMParallel"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"trained_betas": [0.001 * (index + 1) for index in range(50)], "num_train_timesteps": 50},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
    ],
    ids=["zero-snr-v", "zero-snr-scaled", "trained", "cosine-sample"],
)
def test_discrete_steps(name: str, schedule: dict[str, Any]) -> None:
    steps = schedule.get("num_train_timesteps", 1000)
    scheduler = getattr(diffusers, f"{name}Scheduler")(clip_sample=False, **schedule)
    unet, denoiser = pair(scheduler)
    scheduler.set_timesteps(steps)
    levels = ddpm_levels(dict(scheduler.config))
    for step in (1, steps // 3, steps - 10):
        sigma = float(levels[step])
        x = noisy(sigma)
        shrunk = x / (1 + sigma**2) ** 0.5
        predicted = unet(shrunk, step).sample
        scheduler.alphas_cumprod[step] = 1 / (1 + sigma**2)  # theirs is float32, with few digits left at the ends
        expected = scheduler.step(predicted, step, shrunk).pred_original_sample
        agree(denoiser(x, sigma), expected, sigma)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_levels_are_diffusers_own(kind: str, rescaled: bool) -> None:
    try:
        scheduler = diffusers.DDPMScheduler(beta_schedule=kind, rescale_betas_zero_snr=rescaled)
    except NotImplementedError:
        pytest.skip(f"the oracle, diffusers {diffusers.__version__}, does not know {kind}")
    left = scheduler.alphas_cumprod.double()[: -1 if rescaled else None]
    found = ddpm_levels(dict(scheduler.config))
    assert len(found) == len(left)
    torch.testing.assert_close(found[5:900], ((1 - left) / left).sqrt()[5:900], rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", ["EDMEuler", "EDMDPMSolverMultistep"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sigma_data", [0.5, 0.9])
def test_edm(name: str, prediction: str, sigma_data: float) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type=prediction, sigma_data=sigma_data)
    unet, denoiser = pair(scheduler)
    scheduler.set_timesteps(20)
    for index in STEPS:
        sigma, time = scheduler.sigmas[index], scheduler.timesteps[index]
        x = noisy(sigma)
        predicted = unet(scheduler.precondition_inputs(x, sigma), time).sample
        agree(denoiser(x, sigma), scheduler.precondition_outputs(x, predicted, sigma), float(sigma))


def test_continuous_v() -> None:
    """Stable Video Diffusion's scheduler tells the network ln(sigma) / 4."""
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    unet, denoiser = pair(scheduler)
    for index in STEPS[1:]:
        scheduler.set_timesteps(20)
        sigma, time = scheduler.sigmas[index], scheduler.timesteps[index]
        x = noisy(sigma)
        predicted = unet(scheduler.scale_model_input(x, time), time).sample
        agree(denoiser(x, sigma), scheduler.step(predicted, time, x).pred_original_sample, float(sigma))


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=500),
        lambda: diffusers.FlowMatchHeunDiscreteScheduler(),
    ],
)
def test_flow(make: Callable[[], Any]) -> None:
    """One step to t = 0 with the predicted velocity is the estimate of the image."""
    scheduler = make()
    unet, denoiser = pair(scheduler)
    steps = scheduler.config.num_train_timesteps
    for time in (0.01, 0.3, 0.7, 0.99):
        sigma = time / (1 - time)
        x = noisy(sigma)
        between = x * (1 - time)
        velocity = unet(between, torch.tensor(time * steps)).sample
        agree(denoiser(x, sigma), between - time * velocity, sigma)
    # and that is how the scheduler goes on: its last step, to t = 0
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    last, time = float(scheduler.sigmas[-2]), scheduler.timesteps[-1]
    scheduler.set_begin_index(3)
    between = torch.randn(2, 3, 8, 8)
    unet, denoiser = pair(scheduler)
    stepped = scheduler.step(unet(between, time).sample, time, between).prev_sample
    agree(denoiser(between / (1 - last), last / (1 - last)), stepped, 1.0)


def test_flow_of_a_ddpm_solver() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    unet, denoiser = pair(scheduler)
    scheduler.set_timesteps(10)
    for index in (1, 5, 9):
        scheduler._step_index = index
        time = scheduler.timesteps[index]
        level = float(time) / 1000  # the time that it tells is rounded to an integer
        scheduler.sigmas[index] = level
        between = torch.randn(2, 3, 8, 8)
        expected = scheduler.convert_model_output(unet(between, time).sample, sample=between)
        agree(denoiser(between / (1 - level), level / (1 - level)), expected, 1.0)


@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_score_of_images_in_0_to_1(embedding: str) -> None:
    """NCSN++'s pipelines call the network with the noise level, on images in [0, 1], and take the output as score."""
    scheduler = diffusers.ScoreSdeVeScheduler()
    unet, denoiser = pair(scheduler, time_embedding_type=embedding)
    for level in (0.02, 1.0, 70.0):  # of images in [0, 1]
        y = torch.rand(2, 3, 8, 8) + level * torch.randn(2, 3, 8, 8)
        score = unet(y, torch.full((2,), level)).sample
        agree((denoiser(2 * y - 1, 2 * level) + 1) / 2, y + level**2 * score, level)


def test_karras_ve_is_the_same_network() -> None:
    scheduler = diffusers.KarrasVeScheduler()
    unet, denoiser = pair(scheduler, time_embedding_type="fourier")
    scheduler.set_timesteps(10)
    for sigma in (0.05, 1.0, 90.0):
        x = noisy(sigma)
        output = (sigma / 2) * unet((x + 1) / 2, torch.full((2,), sigma / 2)).sample  # as its pipeline has it
        expected = scheduler.step(output, sigma, 0.0, x).derivative  # (x - D) / sigma
        agree((x - denoiser(x, sigma)) / sigma, expected, 1.0, 1e-4)


@pytest.mark.parametrize("make", [
    lambda: diffusers.DDPMScheduler(), lambda: diffusers.DDPMScheduler(prediction_type="v_prediction"),
    lambda: diffusers.EDMEulerScheduler(), lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    lambda: diffusers.ScoreSdeVeScheduler(),
], ids=["epsilon", "v", "edm", "flow", "ve"])  # fmt: skip
def test_closed_form_of_a_gaussian(make: Callable[[], Any]) -> None:
    """The output that is best for Gaussian data gives the Gaussian's denoiser, whose form is known."""
    scheduler, spread = make(), 0.3
    schedule = schedule_of({**scheduler.config, "_class_name": type(scheduler).__name__})
    for sigma in (0.05, 0.7, 20.0):
        x = torch.randn(64, dtype=torch.float64) * (spread**2 + sigma**2) ** 0.5
        expected = x * spread**2 / (spread**2 + sigma**2)
        noise = (x - expected) / sigma
        alpha = 1 / (1 + sigma**2) ** 0.5
        variance = sigma**2 + 0.25
        output = {
            "DDPMScheduler": noise
            if scheduler.config.get("prediction_type") == "epsilon"
            else alpha * noise - sigma * alpha * expected,
            "EDMEulerScheduler": (expected - 0.25 / variance * x) / (sigma * 0.5 / variance**0.5),
            "FlowMatchEulerDiscreteScheduler": noise - expected,
            "ScoreSdeVeScheduler": -noise / (sigma / 2),
        }[type(scheduler).__name__]
        terms = schedule(torch.tensor([sigma], dtype=torch.float64))
        torch.testing.assert_close(terms.keep * x + terms.gain * output, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler: .*no denoiser"),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler: .*distilled"),
        ({"_class_name": "TCDScheduler"}, "distilled"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "inverted"),
        ({"_class_name": "ScoreSdeVpScheduler"}, "'ScoreSdeVpScheduler' .*not supported"),
        ({"_class_name": "IPNDMScheduler"}, "'IPNDMScheduler' .*not supported"),
        ({"_class_name": ["my", "Scheduler"]}, "not supported"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "belong together"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "flow_prediction"}, "belong together"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "unknown prediction_type"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": float("nan")}, "no number"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": -1}, "no noise levels"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps"),
        ({"beta_schedule": "quadratic"}, "unknown beta_schedule"),
        ({"beta_start": None}, "no number"),
    ],
)
def test_others_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        schedule_of(settings)


def test_range_to_sample_in() -> None:
    ddpm = schedule_of({})
    assert isinstance(ddpm, DDPMSteps) and ddpm.sigma_max == pytest.approx(157.4, abs=0.1)
    edm = schedule_of({"_class_name": "EDMEulerScheduler", "sigma_max": 50.0})
    assert (edm.sigma_min, edm.sigma_max) == (0.002, 50.0)
    score = schedule_of({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50})
    assert (score.sigma_min, score.sigma_max) == (0.02, 100.0)


def test_fourier_times_need_a_score_network() -> None:
    with pytest.raises(DataError, match="'fourier' does not fit"):
        pair(diffusers.DDPMScheduler(), time_embedding_type="fourier")
