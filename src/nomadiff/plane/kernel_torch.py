"""The learner of two-dimensional loops in PyTorch: all runs of a batch at once, gradients by autograd.

The reference the compiled kernel is checked against, and the way to use a GPU: one matrix product then serves hundreds
of runs. On a CPU it is several times slower than :mod:`nomadiff.plane.kernel_numba`, which has the same interface and
draws the same random numbers, so the two agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nomadiff.plane.network import HIDDEN, LAYERS, Network, named_parameters
from nomadiff.plane.noise import SamplingNoise, epoch_noise
from nomadiff.plane.schedule import CLEAN, NOISE, STEP_NOISE, STEP_PREDICTION, STEP_SCALE, STEPS
from nomadiff.plane.training_plan import TrainingPlan

__all__ = ["TorchKernel", "predict_noise"]

BLOCK = 4096


def predict_noise(network: Network, parameters: Tensor, points: Tensor, times: Tensor, labels: Tensor) -> Tensor:
    """The networks' predictions of the noise in noisy points.

    Args:
        network: the form of the network.
        parameters: float32 ``(R, PARAMETERS)``, one network a run.
        points: float32 ``(R, n, 2)``, noisy points.
        times: ``(R, n)``, their steps in 0..39.
        labels: float32 ``(R, n)``, their source labels.

    Returns:
        float32 ``(R, n, 2)``.
    """
    named = named_parameters(parameters)
    condition = torch.stack([times * network.time_scale, labels], dim=-1)
    state = torch.baddbmm(named["input_bias"][:, None], torch.cat([points, condition], dim=-1), named["input"])
    for layer in range(LAYERS):
        if layer % 2 == 0:
            entered = state
        sums = torch.baddbmm(named[f"bias.{layer}"][:, None], state, named[f"weight.{layer}"])
        if network.residual and layer % 2 == 0:
            sums = sums + condition @ torch.stack([named[f"time.{layer}"], named[f"label.{layer}"]], dim=-2)
        if network.layer_norm:
            normal = F.layer_norm(sums, (HIDDEN,))
            sums = named[f"gain.{layer}"][:, None] * normal + named[f"shift.{layer}"][:, None]
        state = sums.relu()
        if network.residual and layer % 2 == 1:
            state = state + entered
    return torch.baddbmm(named["output_bias"][:, None], state, named["output"].transpose(-1, -2))


class TorchKernel:
    """Trains and samples a batch of runs together.

    Args:
        network: the form of the network.
        device: where to compute, as PyTorch names it.
    """

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.network = network
        self.device = torch.device(device)

    def train(
        self, parameters: np.ndarray, points: np.ndarray, labels: np.ndarray, plan: TrainingPlan, seeds: Sequence[int]
    ) -> np.ndarray:
        """Train every run with a fresh optimiser; arguments and result as :meth:`NumbaKernel.train`."""
        weights = self._move(parameters).clone()
        first, second = torch.zeros_like(weights), torch.zeros_like(weights)
        data, marks = self._move(points), self._move(labels)
        count, step = points.shape[1], 0
        streams = [epoch_noise(seed, count, shuffled=plan.orders(count)) for seed in seeds]
        for _ in range(plan.epochs):
            draws = _in_threads(next, streams)
            order = self._move(np.stack([draw.order for draw in draws])).long()
            times = self._move(np.stack([draw.times for draw in draws])).long()
            noise = self._move(np.stack([draw.noise for draw in draws]))
            for begin in range(0, count, plan.batch):
                batch = slice(begin, begin + plan.batch)
                chosen = order[:, batch]
                clean = data.gather(1, chosen[..., None].expand(-1, -1, 2))
                gradient = self.gradient(weights, clean, marks.gather(1, chosen), times[:, batch], noise[:, batch])
                rate = plan.rate + plan.slope(count) * step
                step += 1
                first.lerp_(gradient, 1 - 0.9)
                second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
                width = second.sqrt().div_((1 - 0.999**step) ** 0.5).add_(1e-8)
                weights.addcdiv_(first, width, value=-rate / (1 - 0.9**step))
        return weights.cpu().numpy()

    def gradient(self, parameters: Tensor, points: Tensor, labels: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Gradient of each run's mean squared error of the predicted noise, float32 ``(R, PARAMETERS)``.

        Args:
            parameters: float32 ``(R, PARAMETERS)``.
            points: float32 ``(R, n, 2)``, clean points.
            labels: float32 ``(R, n)``.
            times: int64 ``(R, n)``.
            noise: float32 ``(R, n, 2)``.
        """
        leaf = parameters.detach().requires_grad_()
        noisy = self._move(CLEAN)[times][..., None] * points + self._move(NOISE)[times][..., None] * noise
        error = predict_noise(self.network, leaf, noisy, times, labels) - noise
        # the mean over a run's own points; runs are independent, so the sum over runs separates
        (gradient,) = torch.autograd.grad(error.square().mean(dim=(1, 2)).sum(), leaf)
        return gradient

    @torch.no_grad()
    def sample(
        self, combination: Sequence[tuple[float, np.ndarray, float]], count: int, seeds: Sequence[int]
    ) -> np.ndarray:
        """Draw samples with a weighted sum of predictions; arguments and result as :meth:`NumbaKernel.sample`."""
        networks = [(coefficient, self._move(weights), label) for coefficient, weights, label in combination]
        streams = [SamplingNoise(seed) for seed in seeds]
        blocks = []
        for begin in range(0, count, BLOCK):
            size = min(BLOCK, count - begin)
            noise = self._move(np.stack(_in_threads(methodcaller("block", size), streams)))
            points = noise[:, :, 0]
            for time in range(STEPS - 1, 0, -1):
                times = torch.full(points.shape[:2], time, device=self.device)
                combined = torch.zeros_like(points)
                for coefficient, weights, label in networks:
                    marks = torch.full(points.shape[:2], label, device=self.device)
                    combined += coefficient * predict_noise(self.network, weights, points, times, marks)
                points = float(STEP_SCALE[time]) * (points - float(STEP_PREDICTION[time]) * combined)
                if time > 1:
                    points = points + float(STEP_NOISE[time]) * noise[:, :, STEPS - time]
            blocks.append(points.cpu().numpy())
        return np.concatenate(blocks, axis=1)

    def _move(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _in_threads(draw: Callable[[Any], Any], streams: Iterable[Any]) -> list[Any]:
    """``draw`` of every stream, side by side: numpy fills arrays without holding the interpreter."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(draw, streams))
