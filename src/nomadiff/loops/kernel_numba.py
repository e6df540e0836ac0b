"""The learner of the two-dimensional world on a CPU: one run at a time, its weights in cache, everything fused.

Noise, forward pass, backward pass and Adam are one compiled function. A batch is walked in chunks of 64 points whose
activations fit the second-level cache beside the weights (73 kB); batching over runs would throw them out again.
Compiled by numba for the processor it runs on and cached on disk. Same interface and same random numbers as
:mod:`nomadiff.loops.kernel_torch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from nomadiff.loops.lanes import (
    add,
    divide,
    fill,
    load,
    multiply,
    multiply_add,
    square_root,
    store,
    subtract,
    total,
    where_positive,
)
from nomadiff.loops.network import (
    BIAS,
    GAIN,
    HIDDEN,
    HIDDEN_LAYERS,
    INPUT,
    INPUT_BIAS,
    LABEL,
    LAYER_SIZE,
    LAYERS,
    OUTPUT,
    OUTPUT_BIAS,
    PARAMETERS,
    SHIFT,
    TIME,
    Network,
)
from nomadiff.loops.noise import SamplingNoise, epoch_noise
from nomadiff.loops.plan import TrainingPlan
from nomadiff.loops.schedule import CLEAN, NOISE, STEP_NOISE, STEP_PREDICTION, STEP_SCALE, STEPS

__all__ = ["NumbaKernel"]

compiled = njit(cache=True, error_model="numpy")
# Everything is inlined into the two functions Python calls. A helper compiled on its own would exist twice, and which
# of the two (they round differently) a process links depends on whether it compiled or read the cache.
inlined = njit(cache=True, error_model="numpy", forceinline=True)

CHUNK = 64
"""Points whose activations are held at a time; a multiple of 4, the rows that share one read of the weights."""

EPSILON = np.float32(1e-5)
ZERO, ONE, PER_UNIT = np.float32(0), np.float32(1), np.float32(1 / HIDDEN)
BETA1, BETA2, ADAM_EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
BLOCK = 4096
"""Samples whose noise is drawn at a time."""

# Scratch memory of one run, in floats. A chunk's point: x, y, time, label.
POINT = 0
PREDICTION = POINT + 4 * CHUNK
SCALE = PREDICTION + 2 * CHUNK  # 1 / standard deviation of each layer norm
STATE = SCALE + LAYERS * CHUNK  # what enters each hidden layer, and the output layer
NORMAL = STATE + (LAYERS + 1) * CHUNK * HIDDEN  # each layer before gain, shift and ReLU
DELTA = NORMAL + LAYERS * CHUNK * HIDDEN  # gradient at a layer's sums
BACK = DELTA + CHUNK * HIDDEN  # gradient at what enters a layer
TRANSPOSED = BACK + CHUNK * HIDDEN  # the hidden weights, output-major
GRADIENT = TRANSPOSED + LAYERS * HIDDEN * HIDDEN
SCRATCH = GRADIENT + PARAMETERS
ROWS = CHUNK * HIDDEN


@inlined
def _activate(parameters, layer, row, sums, scratch, residual, layer_norm):
    """Normalise one row of sums, rectify, add the skip; keep what the backward pass needs."""
    if layer_norm:
        centred = subtract(sums, fill(total(sums) * PER_UNIT))
        scale = ONE / math.sqrt(total(multiply(centred, centred)) * PER_UNIT + EPSILON)
        scratch[SCALE + layer * CHUNK + row] = scale
        sums = multiply(centred, fill(scale))
    store(scratch, NORMAL + layer * ROWS + row * HIDDEN, sums)
    if layer_norm:
        start = HIDDEN_LAYERS + layer * LAYER_SIZE
        sums = add(multiply(load(parameters, start + GAIN), sums), load(parameters, start + SHIFT))
    result = where_positive(sums, sums)
    if residual and layer % 2 == 1:
        result = add(result, load(scratch, STATE + (layer - 1) * ROWS + row * HIDDEN))
    store(scratch, STATE + (layer + 1) * ROWS + row * HIDDEN, result)


@inlined
def _condition(parameters, start, scratch, row):
    """Bias, time and label of a residual block for one row: where its sums begin."""
    sums = load(parameters, start + BIAS)
    sums = multiply_add(scratch[POINT + 4 * row + 2], load(parameters, start + TIME), sums)
    return multiply_add(scratch[POINT + 4 * row + 3], load(parameters, start + LABEL), sums)


@inlined
def _forward(parameters, scratch, rows, residual, layer_norm):
    """Predict the noise of the ``rows`` points in ``scratch[POINT:]`` into ``scratch[PREDICTION:]``; rows % 4 == 0."""
    for row in range(rows):
        sums = load(parameters, INPUT_BIAS)
        for column in range(4):
            sums = multiply_add(scratch[POINT + 4 * row + column], load(parameters, INPUT + column * HIDDEN), sums)
        store(scratch, STATE + row * HIDDEN, sums)
    for layer in range(LAYERS):
        start = HIDDEN_LAYERS + layer * LAYER_SIZE
        for row in range(0, rows, 4):
            if residual and layer % 2 == 0:
                sums0 = _condition(parameters, start, scratch, row)
                sums1 = _condition(parameters, start, scratch, row + 1)
                sums2 = _condition(parameters, start, scratch, row + 2)
                sums3 = _condition(parameters, start, scratch, row + 3)
            else:
                sums0 = load(parameters, start + BIAS)
                sums1 = sums0
                sums2 = sums0
                sums3 = sums0
            below = STATE + layer * ROWS + row * HIDDEN
            for unit in range(HIDDEN):
                weights = load(parameters, start + unit * HIDDEN)
                sums0 = multiply_add(scratch[below + unit], weights, sums0)
                sums1 = multiply_add(scratch[below + HIDDEN + unit], weights, sums1)
                sums2 = multiply_add(scratch[below + 2 * HIDDEN + unit], weights, sums2)
                sums3 = multiply_add(scratch[below + 3 * HIDDEN + unit], weights, sums3)
            _activate(parameters, layer, row, sums0, scratch, residual, layer_norm)
            _activate(parameters, layer, row + 1, sums1, scratch, residual, layer_norm)
            _activate(parameters, layer, row + 2, sums2, scratch, residual, layer_norm)
            _activate(parameters, layer, row + 3, sums3, scratch, residual, layer_norm)
    output0, output1 = load(parameters, OUTPUT), load(parameters, OUTPUT + HIDDEN)
    for row in range(rows):
        state = load(scratch, STATE + LAYERS * ROWS + row * HIDDEN)
        scratch[PREDICTION + 2 * row] = total(multiply(state, output0)) + parameters[OUTPUT_BIAS]
        scratch[PREDICTION + 2 * row + 1] = total(multiply(state, output1)) + parameters[OUTPUT_BIAS + 1]


@inlined
def _backward(parameters, scratch, rows, residual, layer_norm):
    """Add the gradient of this chunk to ``scratch[GRADIENT:]``.

    ``scratch[PREDICTION:]`` holds the gradient at the prediction; rows beyond the chunk's points must hold zeros there.
    """
    for component in range(2):
        weights = load(parameters, OUTPUT + component * HIDDEN)
        gradient = load(scratch, GRADIENT + OUTPUT + component * HIDDEN)
        bias = ZERO
        for row in range(rows):
            error = scratch[PREDICTION + 2 * row + component]
            bias += error
            gradient = multiply_add(error, load(scratch, STATE + LAYERS * ROWS + row * HIDDEN), gradient)
            back = fill(ZERO) if component == 0 else load(scratch, BACK + row * HIDDEN)
            store(scratch, BACK + row * HIDDEN, multiply_add(error, weights, back))
        store(scratch, GRADIENT + OUTPUT + component * HIDDEN, gradient)
        scratch[GRADIENT + OUTPUT_BIAS + component] += bias
    for layer in range(LAYERS - 1, -1, -1):
        start = HIDDEN_LAYERS + layer * LAYER_SIZE
        _backward_activation(parameters, scratch, rows, layer, residual, layer_norm)
        # gradient of the weights: unit by unit of the layer below, summed over the chunk in registers
        below = STATE + layer * ROWS
        for unit in range(0, HIDDEN, 4):
            place = GRADIENT + start + unit * HIDDEN
            sums0, sums1 = load(scratch, place), load(scratch, place + HIDDEN)
            sums2, sums3 = load(scratch, place + 2 * HIDDEN), load(scratch, place + 3 * HIDDEN)
            for row in range(rows):
                delta = load(scratch, DELTA + row * HIDDEN)
                sums0 = multiply_add(scratch[below + row * HIDDEN + unit], delta, sums0)
                sums1 = multiply_add(scratch[below + row * HIDDEN + unit + 1], delta, sums1)
                sums2 = multiply_add(scratch[below + row * HIDDEN + unit + 2], delta, sums2)
                sums3 = multiply_add(scratch[below + row * HIDDEN + unit + 3], delta, sums3)
            store(scratch, place, sums0)
            store(scratch, place + HIDDEN, sums1)
            store(scratch, place + 2 * HIDDEN, sums2)
            store(scratch, place + 3 * HIDDEN, sums3)
        # gradient at what enters the layer; a block's input also receives the skip's, kept in NORMAL by the layer above
        for row in range(0, rows, 4):
            if residual and layer % 2 == 0:
                skip = NORMAL + (layer + 1) * ROWS + row * HIDDEN
                sums0, sums1 = load(scratch, skip), load(scratch, skip + HIDDEN)
                sums2, sums3 = load(scratch, skip + 2 * HIDDEN), load(scratch, skip + 3 * HIDDEN)
            else:
                sums0 = fill(ZERO)
                sums1 = sums0
                sums2 = sums0
                sums3 = sums0
            delta_at = DELTA + row * HIDDEN
            for unit in range(HIDDEN):
                weights = load(scratch, TRANSPOSED + (layer * HIDDEN + unit) * HIDDEN)
                sums0 = multiply_add(scratch[delta_at + unit], weights, sums0)
                sums1 = multiply_add(scratch[delta_at + HIDDEN + unit], weights, sums1)
                sums2 = multiply_add(scratch[delta_at + 2 * HIDDEN + unit], weights, sums2)
                sums3 = multiply_add(scratch[delta_at + 3 * HIDDEN + unit], weights, sums3)
            place = BACK + row * HIDDEN
            store(scratch, place, sums0)
            store(scratch, place + HIDDEN, sums1)
            store(scratch, place + 2 * HIDDEN, sums2)
            store(scratch, place + 3 * HIDDEN, sums3)
    for column in range(5):
        place = GRADIENT + INPUT + column * HIDDEN  # the bias follows the four inputs
        gradient = load(scratch, place)
        for row in range(rows):
            value = scratch[POINT + 4 * row + column] if column < 4 else ONE
            gradient = multiply_add(value, load(scratch, BACK + row * HIDDEN), gradient)
        store(scratch, place, gradient)


@inlined
def _backward_activation(parameters, scratch, rows, layer, residual, layer_norm):
    """From the gradient after a hidden layer (BACK) to the one at its sums (DELTA); adds that of its row parameters."""
    start = HIDDEN_LAYERS + layer * LAYER_SIZE
    gain, shift = load(parameters, start + GAIN), load(parameters, start + SHIFT)
    place = GRADIENT + start
    time_gradient, label_gradient = load(scratch, place + TIME), load(scratch, place + LABEL)
    bias_gradient = load(scratch, place + BIAS)
    gain_gradient, shift_gradient = load(scratch, place + GAIN), load(scratch, place + SHIFT)
    for row in range(rows):
        back = load(scratch, BACK + row * HIDDEN)
        normal = load(scratch, NORMAL + layer * ROWS + row * HIDDEN)
        if residual and layer % 2 == 1:
            store(scratch, NORMAL + layer * ROWS + row * HIDDEN, back)  # the skip's gradient, for the block's input
        if layer_norm:
            delta = where_positive(add(multiply(gain, normal), shift), back)
            shift_gradient = add(shift_gradient, delta)
            gain_gradient = add(gain_gradient, multiply(delta, normal))
            delta = multiply(delta, gain)
            mean = fill(total(delta) * PER_UNIT)
            along = fill(total(multiply(delta, normal)) * PER_UNIT)
            delta = subtract(subtract(delta, mean), multiply(along, normal))
            delta = multiply(delta, fill(scratch[SCALE + layer * CHUNK + row]))
        else:
            delta = where_positive(normal, back)
        store(scratch, DELTA + row * HIDDEN, delta)
        bias_gradient = add(bias_gradient, delta)
        if residual and layer % 2 == 0:
            time_gradient = multiply_add(scratch[POINT + 4 * row + 2], delta, time_gradient)
            label_gradient = multiply_add(scratch[POINT + 4 * row + 3], delta, label_gradient)
    store(scratch, place + TIME, time_gradient)
    store(scratch, place + LABEL, label_gradient)
    store(scratch, place + BIAS, bias_gradient)
    store(scratch, place + GAIN, gain_gradient)
    store(scratch, place + SHIFT, shift_gradient)


@inlined
def _adam(parameters, first, second, scratch, rate, step):
    """One Adam step (Kingma and Ba 2015) with the gradient in scratch; ``step`` counts from 1."""
    # in float64: 1 - 0.999 ** step loses four digits in float32 at the first steps
    scale = np.float32(rate / (1 - 0.9**step))
    correction = np.float32(1 / math.sqrt(1 - 0.999**step))
    for place in range(0, PARAMETERS, HIDDEN):
        gradient = load(scratch, GRADIENT + place)
        mean = multiply_add(BETA1, load(first, place), multiply(fill(ONE - BETA1), gradient))
        fresh = multiply(multiply(fill(ONE - BETA2), gradient), gradient)
        square = multiply_add(BETA2, load(second, place), fresh)
        store(first, place, mean)
        store(second, place, square)
        width = multiply_add(correction, square_root(square), fill(ADAM_EPSILON))
        store(parameters, place, multiply_add(-scale, divide(mean, width), load(parameters, place)))


@inlined
def _transpose(parameters, scratch):
    for layer in range(LAYERS):
        start, place = HIDDEN_LAYERS + layer * LAYER_SIZE, TRANSPOSED + layer * HIDDEN * HIDDEN
        for row in range(HIDDEN):
            for column in range(HIDDEN):
                scratch[place + column * HIDDEN + row] = parameters[start + row * HIDDEN + column]


@inlined
def _batch_gradient(parameters, scratch, points, labels, order, times, noise, time_scale, residual, layer_norm):
    """Gradient of the mean squared error of a batch (``order`` etc. are the batch's) into ``scratch[GRADIENT:]``."""
    scratch[GRADIENT : GRADIENT + PARAMETERS] = ZERO
    _transpose(parameters, scratch)
    count = order.size
    for begin in range(0, count, CHUNK):
        live = min(CHUNK, count - begin)
        rows = (live + 3) // 4 * 4
        for row in range(rows):
            index = begin + min(row, live - 1)
            time, place = times[index], POINT + 4 * row
            scratch[place] = CLEAN[time] * points[order[index], 0] + NOISE[time] * noise[index, 0]
            scratch[place + 1] = CLEAN[time] * points[order[index], 1] + NOISE[time] * noise[index, 1]
            scratch[place + 2] = np.float32(time) * time_scale
            scratch[place + 3] = labels[order[index]]
        _forward(parameters, scratch, rows, residual, layer_norm)
        weight = ONE / np.float32(count)  # d/dp of sum (p - e)^2 / (2 count)
        for row in range(rows):
            for component in range(2):
                place = PREDICTION + 2 * row + component
                error = (scratch[place] - noise[begin + row, component]) * weight if row < live else ZERO
                scratch[place] = error
        _backward(parameters, scratch, rows, residual, layer_norm)


@compiled
def _train_epoch(
    parameters, first, second, scratch, points, labels, order, times, noise, batch, rate, slope, step, form
):
    """One pass over the points in batches; returns the number of optimiser steps made so far."""
    time_scale, residual, layer_norm = form
    for begin in range(0, order.size, batch):
        end = min(begin + batch, order.size)
        _batch_gradient(
            parameters, scratch, points, labels, order[begin:end], times[begin:end], noise[begin:end],
            time_scale, residual, layer_norm,
        )  # fmt: skip
        _adam(parameters, first, second, scratch, rate + slope * np.float32(step), step + 1)
        step += 1
    return step


@compiled
def _sample(parameters, coefficients, labels, noise, scratch, result, time_scale, residual, layer_norm):
    """Walk every sample from pure noise to the plane with the combined prediction of several networks."""
    position = np.empty(2 * CHUNK, np.float32)
    combined = np.empty(2 * CHUNK, np.float32)
    count = noise.shape[0]
    for begin in range(0, count, CHUNK):
        live = min(CHUNK, count - begin)
        rows = (live + 3) // 4 * 4
        for row in range(rows):
            for component in range(2):
                position[2 * row + component] = noise[begin + min(row, live - 1), 0, component]
        for time in range(STEPS - 1, 0, -1):
            combined[:] = ZERO
            for network in range(coefficients.size):
                for row in range(rows):
                    scratch[POINT + 4 * row] = position[2 * row]
                    scratch[POINT + 4 * row + 1] = position[2 * row + 1]
                    scratch[POINT + 4 * row + 2] = np.float32(time) * time_scale
                    scratch[POINT + 4 * row + 3] = labels[network]
                _forward(parameters[network], scratch, rows, residual, layer_norm)
                for place in range(2 * rows):
                    combined[place] += coefficients[network] * scratch[PREDICTION + place]
            for row in range(live):
                for component in range(2):
                    place = 2 * row + component
                    moved = STEP_SCALE[time] * (position[place] - STEP_PREDICTION[time] * combined[place])
                    if time > 1:
                        moved += STEP_NOISE[time] * noise[begin + row, STEPS - time, component]
                    position[place] = moved
        for row in range(live):
            result[begin + row, 0] = position[2 * row]
            result[begin + row, 1] = position[2 * row + 1]


class NumbaKernel:
    """Trains and samples a batch of runs, one after the other, on one core.

    Args:
        network: the form of the network.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._form = (np.float32(network.time_scale), network.residual, network.layer_norm)
        self._scratch = _aligned(SCRATCH)

    def train(
        self, parameters: np.ndarray, points: np.ndarray, labels: np.ndarray, plan: TrainingPlan, seeds: Sequence[int]
    ) -> np.ndarray:
        """Train every run from ``parameters`` with a fresh optimiser.

        Args:
            parameters: float32 ``(R, PARAMETERS)``; not changed.
            points: float32 ``(R, n, 2)``.
            labels: float32 ``(R, n)``, the source label of each point.
            plan: epochs, batch and learning rate.
            seeds: one seed a run.

        Returns:
            The trained weights, float32 ``(R, PARAMETERS)``.
        """
        trained = np.empty_like(parameters)
        count = points.shape[1]
        rate, slope = np.float32(plan.rate), np.float32(plan.slope(count))
        for run, seed in enumerate(seeds):
            weights, first, second = (_aligned(PARAMETERS) for _ in range(3))
            weights[:] = parameters[run]
            data, marks = np.ascontiguousarray(points[run]), np.ascontiguousarray(labels[run])
            epochs = epoch_noise(seed, count, shuffled=plan.orders(count))
            step = 0
            for _ in range(plan.epochs):
                draw = next(epochs)
                step = _train_epoch(
                    weights, first, second, self._scratch, data, marks, draw.order, draw.times, draw.noise,
                    plan.batch, rate, slope, step, self._form,
                )  # fmt: skip
            trained[run] = weights
        return trained

    def sample(
        self, combination: Sequence[tuple[float, np.ndarray, float]], count: int, seeds: Sequence[int]
    ) -> np.ndarray:
        """Draw samples with a weighted sum of predictions (SIMS eq. 5).

        Args:
            combination: (coefficient, weights float32 ``(R, PARAMETERS)``, source label) of each network; the
                coefficients sum to 1.
            count: samples a run.
            seeds: one seed a run; sample ``i`` is a function of (seed, i).

        Returns:
            float32 ``(R, count, 2)``.
        """
        samples = np.empty((len(seeds), count, 2), np.float32)
        coefficients = np.array([coefficient for coefficient, _, _ in combination], np.float32)
        marks = np.array([label for _, _, label in combination], np.float32)
        for run, seed in enumerate(seeds):
            weights = np.stack([parameters[run] for _, parameters, _ in combination])
            noise = SamplingNoise(seed)
            for begin in range(0, count, BLOCK):
                block = samples[run, begin : begin + BLOCK]
                _sample(
                    weights, coefficients, marks, noise.block(len(block)), self._scratch, block, *self._form
                )  # fmt: skip
        return samples


def _aligned(size: int) -> np.ndarray:
    """Zeros, float32 ``(size,)``, that begin at a cache line: a row is then four lines and not five."""
    memory = np.zeros(size + 16, np.float32)
    return memory[(-memory.ctypes.data // 4) % 16 :][:size]
