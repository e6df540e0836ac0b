"""A network of diffusers as a denoiser, by the scheduler it was trained with.

A scheduler fixes what the network sees at a noise level and what its output means. In EDM's variables, image plus sigma
times noise, every one of them is the same few numbers: the network sees ``scale x + offset`` at some ``time``, and the
estimate of the clean image is ``keep x + gain output``. Only known schedulers are here; others are
refused by name, since a network that is read wrongly still draws something.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError

__all__ = ["Schedule", "Terms", "ddpm_levels", "schedule_of"]

PREDICTIONS = ("epsilon", "v_prediction", "sample")
_MOST_STEPS = 1_000_000
_LARGEST_SIGMA = 160.0  # larger levels gain nothing: no image is visible at this one any more
_SMALLEST_SIGMA = 0.002

# class names without "Scheduler"; they differ in how they sample, not in what the network means
_DDPM_LIKE = (
    *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "DEISMultistep", "UniPCMultistep", "SASolver"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "LMSDiscrete", "HeunDiscrete"),
    *("EulerDiscrete", "EulerAncestralDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
)
_OTHER_BETAS = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")  # where a file names none
_EDM = ("EDMEuler", "EDMDPMSolverMultistep")
_FLOW = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")
_DISTILLED = ("CMStochasticIterative", "LCM", "TCD", "FlowMatchLCM", "SCM")


@dataclass(frozen=True)
class Terms:
    """A network as a denoiser at some noise levels: ``D(x) = keep x + gain F(scale x + offset, time)``.

    Attributes:
        scale, keep, gain: ``(B,)``, of the dtype of the noise levels.
        time: ``(B,)``, the network's input for the noise level.
        offset: what is added to the network's input.
    """

    scale: Tensor
    time: Tensor
    keep: Tensor
    gain: Tensor
    offset: float = 0.0


class Schedule(nn.Module):
    """One family of schedulers; :meth:`forward` gives its terms.

    Attributes:
        sigma_min, sigma_max: noise levels between which to sample, in units of [-1, 1] images.
    """

    sigma_min = _SMALLEST_SIGMA
    sigma_max = _LARGEST_SIGMA

    def forward(self, sigma: Tensor) -> Terms:
        """The terms at noise levels ``sigma``, ``(B,)``, above 0."""
        raise NotImplementedError


class DDPMSteps(Schedule):
    """DDPM's discrete steps, with images shrunk as noise is added (Ho et al. 2020; Salimans and Ho 2022 for v).

    Between the steps the time is interpolated in the logarithm of the noise level, and held at its ends beyond them.

    Args:
        scheduler: settings of a DDPM-like scheduler.
    """

    log_levels: Tensor

    def __init__(self, scheduler: dict[str, Any]) -> None:
        super().__init__()
        self.prediction = _prediction(scheduler, PREDICTIONS)
        levels = ddpm_levels(scheduler)
        self.sigma_min, self.sigma_max = float(levels[0]), min(float(levels[-1]), _LARGEST_SIGMA)
        self.register_buffer("log_levels", levels.log().float(), persistent=False)

    def forward(self, sigma: Tensor) -> Terms:
        """As :class:`Schedule`."""
        shrink = (1 + sigma**2).rsqrt()
        keep, gain = {
            "epsilon": (torch.ones_like(sigma), -sigma),
            "v_prediction": (shrink**2, -sigma * shrink),
            "sample": (torch.zeros_like(sigma), torch.ones_like(sigma)),
        }[self.prediction]
        return Terms(shrink, self.steps(sigma.log().float()), keep, gain)

    def steps(self, log_level: Tensor) -> Tensor:
        """The training step of a noise level, as a fraction: float32 ``(B,)`` from ``ln(sigma)``."""
        table = self.log_levels
        after = torch.searchsorted(table, log_level.contiguous()).clamp(1, len(table) - 1)
        low, high = table[after - 1], table[after]
        return after - 1 + ((log_level - low) / (high - low)).clamp(0, 1)


class EDMLevels(Schedule):
    """EDM's preconditioning (Karras et al. 2022, table 1); with ``sigma_data`` 1 and v Stable Video Diffusion's.

    Args:
        sigma_data: standard deviation it assumes.
        sign: of the network's output: 1 for "epsilon", -1 for "v_prediction", as diffusers has it.
        sigma_min, sigma_max: noise levels to sample between.
    """

    def __init__(self, sigma_data: float, sign: float, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        if not 0 < sigma_data < 1e6 or not 0 < sigma_min < sigma_max < 1e6:
            raise DataError(
                f"sigma_data {sigma_data:g} or sigma_min {sigma_min:g}, sigma_max {sigma_max:g} is no level"
            )
        self.sigma_data, self.sign = sigma_data, sign
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def forward(self, sigma: Tensor) -> Terms:
        """As :class:`Schedule`."""
        variance = sigma**2 + self.sigma_data**2
        gain = self.sign * sigma * self.sigma_data * variance.rsqrt()
        return Terms(variance.rsqrt(), sigma.log() / 4, self.sigma_data**2 / variance, gain)


class Flow(Schedule):
    """Rectified flow (Liu et al. 2023; Lipman et al. 2023): the velocity from image to noise on a straight line.

    Its ``(1 - t) x0 + t noise`` is EDM's ``x`` at ``sigma = t / (1 - t)``, shrunk by ``1 - t``.

    Args:
        steps: factor of t in the network's input.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, sigma: Tensor) -> Terms:
        """As :class:`Schedule`."""
        shrink = 1 / (1 + sigma)
        return Terms(shrink, sigma * shrink * self.steps, shrink, -sigma * shrink)


class VarianceExploding(Schedule):
    """NCSN++'s score (Song et al. 2021), of images in [0, 1]; beyond its trained levels the noise it sees is held.

    Args:
        sigma_min, sigma_max: trained noise levels, in units of [-1, 1] images.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max < 1e6:
            raise DataError(f"sigma_min {sigma_min:g} and sigma_max {sigma_max:g} are no noise levels")
        self._range = (sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, min(sigma_max, _LARGEST_SIGMA)

    def forward(self, sigma: Tensor) -> Terms:
        """As :class:`Schedule`."""
        known = sigma.clamp(*self._range)
        half = torch.full_like(sigma, 0.5)
        # y = (x + 1) / 2 has noise sigma / 2; its denoiser y + (sigma / 2)^2 score, taken back to [-1, 1]
        return Terms(half, known / 2, torch.ones_like(sigma), sigma * known / 2, offset=0.5)


def schedule_of(scheduler: dict[str, Any]) -> Schedule:
    """The schedule that a scheduler's settings describe.

    Args:
        scheduler: its ``scheduler_config.json``; without ``_class_name`` DDPM's.

    Raises:
        DataError: it is not known to be a denoiser's, or its settings contradict each other.
    """
    name = scheduler.get("_class_name", "DDPMScheduler")
    kind = name.removesuffix("Scheduler") if isinstance(name, str) else ""
    if kind in _DISTILLED:
        raise DataError(f"{name}: its network was distilled to jump to an image in few steps, which is no denoiser")
    if kind in _DDPM_LIKE:
        return _ddpm_like(scheduler, kind)
    if kind in _EDM:
        return _edm(scheduler, _number(scheduler, "sigma_data", 0.5))
    if kind in _FLOW:
        if scheduler.get("invert_sigmas"):
            raise DataError(f"{name}: a flow whose levels are inverted (invert_sigmas) is not known")
        return Flow(_steps(scheduler))
    if kind == "ScoreSdeVe":
        return VarianceExploding(2 * _number(scheduler, "sigma_min", 0.01), 2 * _number(scheduler, "sigma_max", 1348.0))
    if kind == "KarrasVe":
        return VarianceExploding(_number(scheduler, "sigma_min", 0.02), _number(scheduler, "sigma_max", 100.0))
    families = "those of DDPM, DDIM and their solvers, EDM, flow matching (Euler, Heun) and ScoreSdeVe are known"
    raise DataError(f"its scheduler {str(name)[:60]!r} is not supported: {families}")


def _ddpm_like(scheduler: dict[str, Any], kind: str) -> Schedule:
    flow = bool(scheduler.get("use_flow_sigmas")), scheduler.get("prediction_type") == "flow_prediction"
    if flow[0] != flow[1]:
        raise DataError("use_flow_sigmas and prediction_type flow_prediction belong together; it has one of them")
    if flow[0]:
        return Flow(_steps(scheduler))
    if (
        scheduler.get("timestep_type", "discrete") == "continuous"
        and scheduler.get("prediction_type") == "v_prediction"
    ):
        return _edm({"prediction_type": "v_prediction"}, 1.0)
    if kind in _OTHER_BETAS:
        scheduler = {"beta_start": 0.00085, "beta_end": 0.012, **scheduler}
    return DDPMSteps(scheduler)


def _edm(scheduler: dict[str, Any], sigma_data: float) -> EDMLevels:
    sign = 1.0 if _prediction(scheduler, ("epsilon", "v_prediction")) == "epsilon" else -1.0
    low, high = _number(scheduler, "sigma_min", _SMALLEST_SIGMA), _number(scheduler, "sigma_max", 80.0)
    return EDMLevels(sigma_data, sign, low, high)


def _prediction(scheduler: dict[str, Any], known: tuple[str, ...]) -> str:
    found = scheduler.get("prediction_type", "epsilon")
    if found not in known:
        raise DataError(f"unknown prediction_type '{found}': {', '.join(known)} are known")
    return found


def _number(scheduler: dict[str, Any], name: str, default: float) -> float:
    value = scheduler.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise DataError(f"{name} of the scheduler is no number")
    return float(value)


def _steps(scheduler: dict[str, Any]) -> int:
    steps = scheduler.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= _MOST_STEPS:
        raise DataError(f"num_train_timesteps of the scheduler must lie in 2..{_MOST_STEPS:,}")
    return steps


def ddpm_levels(scheduler: dict[str, Any]) -> Tensor:
    """Noise level of every training step, ``sqrt((1 - a) / a)`` with DDPM's cumulative product ``a``.

    Args:
        scheduler: a DDPM-like scheduler's settings: ``num_train_timesteps``, ``beta_start``, ``beta_end``,
            ``beta_schedule``, ``trained_betas``, ``rescale_betas_zero_snr``.

    Returns:
        float64 ``(steps,)``, ascending. Of a schedule rescaled to end in pure noise the last step is left out: its
        level is infinite.

    Raises:
        DataError: a schedule that is not known, or has no finite noise levels.
    """
    steps = _steps(scheduler)
    first, last = _number(scheduler, "beta_start", 1e-4), _number(scheduler, "beta_end", 0.02)
    kind = scheduler.get("beta_schedule", "linear")
    given = scheduler.get("trained_betas")
    if given is not None:
        betas = torch.tensor(given, dtype=torch.float64, device="cpu").flatten()
    elif kind in ("linear", "scaled_linear"):
        power = 1.0 if kind == "linear" else 0.5
        betas = torch.linspace(first**power, last**power, steps, dtype=torch.float64, device="cpu") ** (1 / power)
    elif kind == "sigmoid":
        betas = torch.linspace(-6, 6, steps, dtype=torch.float64, device="cpu").sigmoid() * (last - first) + first
    elif kind in _REMAINING:
        products = [_REMAINING[kind](step / steps) for step in range(steps + 1)]
        left = torch.tensor(products, dtype=torch.float64, device="cpu")
        betas = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    else:
        known = ", ".join(("linear", "scaled_linear", "sigmoid", *_REMAINING))
        raise DataError(f"unknown beta_schedule '{kind}': {known} are known")
    left = (1 - betas).cumprod(0)
    if scheduler.get("rescale_betas_zero_snr"):  # Lin et al. 2024, algorithm 1
        signal = left.sqrt()
        left = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1]))[:-1] ** 2
    levels = ((1 - left) / left).sqrt()
    if len(levels) < 2 or not bool(torch.isfinite(levels).all()) or not bool((levels.diff() > 0).all()):
        raise DataError("a noise schedule must rise and stay finite")
    return levels


def _laplace(time: float) -> float:
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - time) * math.log(1 - 2 * abs(0.5 - time) + 1e-6))
    return math.sqrt(snr / (1 + snr))


# cumulative products that schedules are made from, as functions of the time in 0..1
_REMAINING: dict[str, Callable[[float], float]] = {
    "squaredcos_cap_v2": lambda time: math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2,
    "laplace": _laplace,
    "exp": lambda time: math.exp(-12 * time),
}
