"""The compiled kernel against autograd, and autograd's network against one written with torch.nn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nomadiff.plane import kernel_numba
from nomadiff.plane.kernel_numba import NumbaKernel
from nomadiff.plane.kernel_torch import TorchKernel, predict_noise
from nomadiff.plane.network import LAYERS, PARAMETERS, Network, initial_parameters, named_parameters
from nomadiff.plane.schedule import STEPS
from nomadiff.plane.training_plan import TrainingPlan

FORMS = {
    "residual": Network(),
    "residual, no norm, unit time": Network(layer_norm=False, time_scale=1 / STEPS),
    "plain": Network(residual=False, layer_norm=False),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def network(request) -> Network:
    return request.param


def trained_like(network: Network, seed: int) -> np.ndarray:
    """Weights with nothing at its special starting value (gains of 1, shifts of 0)."""
    generator = np.random.default_rng(seed)
    weights = initial_parameters(network, seed) + generator.normal(0, 0.05, PARAMETERS).astype(np.float32)
    weights[-62:] = 0
    return weights


class NotebookNetwork(nn.Module):
    """The residual form with torch.nn's own layers, one run: hidden widths 65 -> 64 -> 64 in each block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 64)
        self.linear = nn.ModuleList(nn.Linear(65 if layer % 2 == 0 else 64, 64) for layer in range(LAYERS))
        self.norm = nn.ModuleList(nn.LayerNorm(64) for _ in range(LAYERS))
        self.last = nn.Linear(64, 2)

    def forward(self, points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        state = self.first(torch.hstack([points, times]))
        for block in (0, 2):
            inner = self.norm[block](self.linear[block](torch.hstack([state, times]))).relu()
            state = state + self.norm[block + 1](self.linear[block + 1](inner)).relu()
        return self.last(state)


def test_the_flat_network_is_the_one_of_the_notebook() -> None:
    torch.manual_seed(0)
    module = NotebookNetwork()
    for norm in module.norm:
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
    flat = torch.zeros(1, PARAMETERS)
    named = {name: view[0] for name, view in named_parameters(flat).items()}
    with torch.no_grad():
        named["input"][:3] = module.first.weight.T
        named["input_bias"][:] = module.first.bias
        for layer in range(LAYERS):
            named[f"weight.{layer}"][:] = module.linear[layer].weight.T[:64]
            if layer % 2 == 0:
                named[f"time.{layer}"][:] = module.linear[layer].weight.T[64]
            named[f"bias.{layer}"][:] = module.linear[layer].bias
            named[f"gain.{layer}"][:] = module.norm[layer].weight
            named[f"shift.{layer}"][:] = module.norm[layer].bias
        named["output"][:] = module.last.weight
        named["output_bias"][:] = module.last.bias
    points, times = torch.randn(20, 2), torch.randint(0, STEPS, (20,))
    expected = module(points, times[:, None].float())
    actual = predict_noise(Network(), flat, points[None], times[None], torch.zeros(1, 20))[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 64, 131])
def test_compiled_gradient_is_autograds(network: Network, count: int) -> None:
    generator = np.random.default_rng(count)
    weights = trained_like(network, 5)
    points = generator.normal(size=(count, 2)).astype(np.float32)
    labels = (generator.random(count) < 0.5).astype(np.float32)
    times = generator.integers(STEPS, size=count, dtype=np.int32)
    noise = generator.normal(size=(count, 2)).astype(np.float32)
    kernel = NumbaKernel(network)
    order = np.arange(count, dtype=np.int32)
    ready = np.zeros(PARAMETERS, np.float32)
    kernel_numba._batch_gradient(weights, ready, kernel._scratch, points, labels, order, times, noise, *kernel._form)
    actual = kernel._scratch[kernel_numba.GRADIENT :][:PARAMETERS]
    batch = [torch.from_numpy(array)[None] for array in (weights, points, labels, times.astype(np.int64), noise)]
    expected = TorchKernel(network).gradient(*batch)[0].numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("plan", [TrainingPlan(4, 2048, 2e-3), TrainingPlan(2, 48, 1e-3, 1e-5)], ids=["full", "mini"])
def test_kernels_train_and_sample_alike(network: Network, plan: TrainingPlan) -> None:
    generator = np.random.default_rng(1)
    points = generator.normal(size=(2, 150, 2)).astype(np.float32)
    labels = (generator.random((2, 150)) < 0.5).astype(np.float32)
    start = np.stack([trained_like(network, seed) for seed in (1, 2)])
    results = []
    for kernel in (NumbaKernel(network), TorchKernel(network)):
        trained = kernel.train(start, points, labels, plan, [11, 12])
        samples = kernel.sample([(2.0, trained, 0.0), (-1.0, start, 1.0)], 70, [21, 22])
        results.append((trained, samples))
    (numba_weights, numba_samples), (torch_weights, torch_samples) = results
    moved = np.abs(torch_weights - start).max()
    assert moved > plan.rate  # otherwise agreement says nothing
    # Adam divides by the gradient's size: where that is at rounding level, a weight's way is not determined
    assert np.quantile(np.abs(numba_weights - torch_weights), 0.999) < 0.02 * moved
    np.testing.assert_allclose(numba_samples, torch_samples, rtol=0.02, atol=0.02 * np.abs(torch_samples).max())


def test_a_run_does_not_depend_on_its_batch_nor_a_sample_on_the_count() -> None:
    network, plan = Network(), TrainingPlan(2, 64, 1e-3)
    kernel = NumbaKernel(network)
    generator = np.random.default_rng(3)
    points = generator.normal(size=(3, 90, 2)).astype(np.float32)
    labels = np.zeros((3, 90), np.float32)
    start = np.stack([initial_parameters(network, seed) for seed in range(3)])
    together = kernel.train(start, points, labels, plan, [5, 6, 7])
    alone = kernel.train(start[1:2], points[1:2], labels[1:2], plan, [6])
    np.testing.assert_array_equal(together[1], alone[0])
    many = kernel.sample([(1.0, together, 0.0)], 4200, [8, 9, 10])
    few = kernel.sample([(1.0, alone, 0.0)], 33, [9])
    np.testing.assert_array_equal(many[1, :33], few[0])


def test_training_leaves_its_start_alone_and_unused_weights_untouched() -> None:
    network = Network(residual=False, layer_norm=False)
    start = initial_parameters(network, 1)[None]
    before = start.copy()
    points = np.random.default_rng(0).normal(size=(1, 50, 2)).astype(np.float32)
    trained = NumbaKernel(network).train(start, points, np.zeros((1, 50), np.float32), TrainingPlan(3, 64, 1e-2), [1])
    np.testing.assert_array_equal(start, before)
    old, new = named_parameters(before), named_parameters(trained)
    for layer in range(LAYERS):
        for name in ("time", "label", "gain", "shift"):
            np.testing.assert_array_equal(new[f"{name}.{layer}"], old[f"{name}.{layer}"])
    assert np.abs(new["weight.2"] - old["weight.2"]).max() > 1e-3


def test_the_optimiser_keeps_no_subnormal_numbers_of_a_unit_that_died() -> None:
    # they make every later step several times as long
    weights, first, second = np.ones((3, PARAMETERS), np.float32)
    scratch = np.zeros(kernel_numba.SCRATCH, np.float32)  # the gradient of a dead unit
    for step in range(1, 1200):
        kernel_numba._adam(weights, first, second, scratch, np.float32(1e-3), step)
        for moment in (first, second):
            assert np.all((moment == 0) | (moment > np.finfo(np.float32).tiny))
    assert np.all(first == 0)  # without care it would be 0.9 ** 1199 = 1e-55, and subnormal from step 830 on
