"""The learner of two-dimensional loops on a CPU: one run at a time, weights in cache, one fused function.

Noise, forward pass, backward pass and Adam are one compiled function. A batch is walked in chunks of 32 points whose
activations fit the second-level cache beside the weights (73 kB); batching over runs would throw them out again.
Compiled by numba for the processor it runs on and cached on disk. Same interface and same random numbers as
:mod:`nomadiff.plane.kernel_torch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba import njit

from nomadiff.plane.lanes import (
    add,
    divide,
    fill,
    load,
    multiply,
    multiply_add,
    not_tiny,
    single,
    square_root,
    store,
    subtract,
    total,
    where_positive,
)
from nomadiff.plane.network import (
    BIAS,
    GAIN,
    HIDDEN,
    HIDDEN_LAYERS,
    INPUT,
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
from nomadiff.plane.noise import SamplingNoise, epoch_noise
from nomadiff.plane.schedule import CLEAN, NOISE, STEP_NOISE, STEP_PREDICTION, STEP_SCALE, STEPS
from nomadiff.plane.training_plan import TrainingPlan

__all__ = ["NumbaKernel"]

# The cache is renewed when this file changes; after a change in lanes, network or schedule, touch this file.
compiled = njit(cache=True, error_model="numpy")
# Everything is inlined into the two functions Python calls. A helper compiled on its own would exist twice, and which
# of the two (they round differently) a process links depends on whether it compiled or read the cache.
inlined = njit(cache=True, error_model="numpy", forceinline=True)

WIDE = bool(get_host_cpu_features().get("avx512f"))
"""Whether four rows of 64 numbers and one more fit the registers: 32 of 512 bits hold them, 16 of 256 only one row."""

CHUNK = 32
"""Points whose activations are held at a time; a multiple of 4, the rows that share one read of the weights."""

EPSILON = np.float32(1e-5)
ZERO, ONE, PER_UNIT = np.float32(0), np.float32(1), np.float32(1 / HIDDEN)
BETA1, BETA2, ADAM_EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
BLOCK = 4096
"""Samples whose noise is drawn at a time."""

FIRST = HIDDEN_LAYERS  # the first hidden layer, the one that is folded into the input layer
ENTRIES = 5  # rows of the input layer: x, y, time, label and, next to them in memory, its bias
SUMMED = HIDDEN + 3  # rows of a hidden layer that make its sums: weights and, next to them, time, label and bias

# Scratch memory of one run, in floats. A chunk's point: x, y, time, label.
POINT = 0
PREDICTION = POINT + 4 * CHUNK
SCALE = PREDICTION + 2 * CHUNK  # 1 / standard deviation of each layer norm
STATE = SCALE + LAYERS * CHUNK  # what leaves each hidden layer
NORMAL = STATE + LAYERS * CHUNK * HIDDEN  # each hidden layer before gain, shift and ReLU
DELTA = NORMAL + LAYERS * CHUNK * HIDDEN  # gradient at a layer's sums
BACK = DELTA + CHUNK * HIDDEN  # gradient at what leaves a layer
SKIP = BACK + CHUNK * HIDDEN  # gradient that goes round a block
TRANSPOSED = SKIP + CHUNK * HIDDEN  # the weights of the hidden layers above the first, output-major
# sum over the batch of (x, y, time, label, 1) times DELTA of layer 0
MOMENT = TRANSPOSED + (LAYERS - 1) * HIDDEN * HIDDEN
GRADIENT = MOMENT + ENTRIES * HIDDEN
SCRATCH = GRADIENT + PARAMETERS
ROWS = CHUNK * HIDDEN


@inlined
def _prepare(parameters, ready, residual, layer_norm):
    """Write the weights into ``ready`` as the products want them: the same layout, with two differences.

    The input layer and the first hidden layer are both linear: they are multiplied once, not both walked for every
    point. The five rows of the product stand where the first hidden layer's weights begin.

    A layer norm does not see the mean of what enters it, so with one the mean of every row is taken out here, once a
    step, and the sums of every point have none. The same holds of the gradient, see :func:`_finish_gradient`.
    """
    for offset in range(0, PARAMETERS, HIDDEN):
        store(ready, offset, load(parameters, offset))
    for entry in range(ENTRIES):
        sums = fill(ZERO)
        for unit in range(HIDDEN):
            weight = single(parameters, INPUT + entry * HIDDEN + unit)
            sums = multiply_add(weight, load(parameters, FIRST + unit * HIDDEN), sums)
        if entry == 2 and residual:
            sums = add(sums, load(parameters, FIRST + TIME))
        if entry == 3 and residual:
            sums = add(sums, load(parameters, FIRST + LABEL))
        if entry == 4:
            sums = add(sums, load(parameters, FIRST + BIAS))
        store(ready, FIRST + entry * HIDDEN, sums)
    if layer_norm:
        _centre(ready, FIRST, ENTRIES)
        for layer in range(1, LAYERS):
            _centre(ready, HIDDEN_LAYERS + layer * LAYER_SIZE, SUMMED)


@inlined
def _centre(array, start, count):
    """Take its mean out of each of ``count`` rows."""
    for offset in range(start, start + count * HIDDEN, HIDDEN):
        row = load(array, offset)
        store(array, offset, subtract(row, fill(total(row) * PER_UNIT)))


@inlined
def _enter(scratch, row, table, start):
    """A point times five rows of ``table``: x, y, time, label and bias."""
    sums = load(table, start + 4 * HIDDEN)
    for column in range(4):
        sums = multiply_add(single(scratch, POINT + 4 * row + column), load(table, start + column * HIDDEN), sums)
    return sums


@inlined
def _begin(ready, start, scratch, row, conditioned):
    """Where the sums of a hidden layer begin for one row: bias and, where they enter, time and label."""
    sums = load(ready, start + BIAS)
    if not conditioned:
        return sums
    sums = multiply_add(single(scratch, POINT + 4 * row + 2), load(ready, start + TIME), sums)
    return multiply_add(single(scratch, POINT + 4 * row + 3), load(ready, start + LABEL), sums)


@inlined
def _accumulate(scratch, target, sums0, sums1, sums2, sums3, table, source, scalars, across, along, count):
    """Add to four rows ``count`` rows of ``table`` from ``source`` on, each times a scalar; store them at ``target``.

    Row ``i`` takes row ``k`` times ``scratch[scalars + i * across + k * along]``. All matrix products are this: sums in
    registers, and, where there are registers enough, one reading of the table for four rows.
    """
    if WIDE:
        for k in range(count):
            row = load(table, source + k * HIDDEN)
            scalar = scalars + k * along
            sums0 = multiply_add(single(scratch, scalar), row, sums0)
            sums1 = multiply_add(single(scratch, scalar + across), row, sums1)
            sums2 = multiply_add(single(scratch, scalar + 2 * across), row, sums2)
            sums3 = multiply_add(single(scratch, scalar + 3 * across), row, sums3)
    else:
        sums0 = _accumulate_one(scratch, sums0, table, source, scalars, along, count)
        sums1 = _accumulate_one(scratch, sums1, table, source, scalars + across, along, count)
        sums2 = _accumulate_one(scratch, sums2, table, source, scalars + 2 * across, along, count)
        sums3 = _accumulate_one(scratch, sums3, table, source, scalars + 3 * across, along, count)
    store(scratch, target, sums0)
    store(scratch, target + HIDDEN, sums1)
    store(scratch, target + 2 * HIDDEN, sums2)
    store(scratch, target + 3 * HIDDEN, sums3)


@inlined
def _accumulate_one(scratch, sums, table, source, scalars, along, count):
    for k in range(count):
        sums = multiply_add(single(scratch, scalars + k * along), load(table, source + k * HIDDEN), sums)
    return sums


@inlined
def _product(ready, scratch, rows, layer, residual):
    """The sums of a hidden layer above the first."""
    start = HIDDEN_LAYERS + layer * LAYER_SIZE
    again = residual and layer == 2  # time and label enter the second block, too; the first one's are in the fold
    for row in range(0, rows, 4):
        target, below = NORMAL + layer * ROWS + row * HIDDEN, STATE + (layer - 1) * ROWS + row * HIDDEN
        sums0 = _begin(ready, start, scratch, row, again)
        sums1 = _begin(ready, start, scratch, row + 1, again)
        sums2 = _begin(ready, start, scratch, row + 2, again)
        sums3 = _begin(ready, start, scratch, row + 3, again)
        _accumulate(scratch, target, sums0, sums1, sums2, sums3, ready, start, below, HIDDEN, 1, HIDDEN)


@inlined
def _activate(ready, scratch, rows, layer, residual, layer_norm):
    """Normalise, rectify, add the skip; keep what the backward pass needs.

    A pass of its own over the rows: the processor then works on several at once, and none waits for another's sum.
    """
    start = HIDDEN_LAYERS + layer * LAYER_SIZE
    for row in range(rows):
        offset = NORMAL + layer * ROWS + row * HIDDEN
        sums = load(scratch, offset) if layer > 0 else _enter(scratch, row, ready, FIRST)
        if layer_norm:
            scale = ONE / math.sqrt(total(multiply(sums, sums)) * PER_UNIT + EPSILON)  # the mean is 0, see _prepare
            scratch[SCALE + layer * CHUNK + row] = scale
            sums = multiply(fill(scale), sums)
            store(scratch, offset, sums)
            sums = add(multiply(load(ready, start + GAIN), sums), load(ready, start + SHIFT))
        elif layer == 0:
            store(scratch, offset, sums)
        result = where_positive(sums, sums)
        if residual and layer == 1:
            result = add(result, _enter(scratch, row, ready, INPUT))
        if residual and layer == 3:
            result = add(result, load(scratch, STATE + ROWS + row * HIDDEN))
        store(scratch, STATE + layer * ROWS + row * HIDDEN, result)


@inlined
def _forward(ready, scratch, rows, residual, layer_norm):
    """Predict the noise of the ``rows`` points in ``scratch[POINT:]`` into ``scratch[PREDICTION:]``; rows % 4 == 0."""
    _activate(ready, scratch, rows, 0, residual, layer_norm)
    for layer in range(1, LAYERS):
        _product(ready, scratch, rows, layer, residual)
        _activate(ready, scratch, rows, layer, residual, layer_norm)
    output0, output1 = load(ready, OUTPUT), load(ready, OUTPUT + HIDDEN)
    for row in range(rows):
        state = load(scratch, STATE + (LAYERS - 1) * ROWS + row * HIDDEN)
        scratch[PREDICTION + 2 * row] = total(multiply(state, output0)) + single(ready, OUTPUT_BIAS)
        scratch[PREDICTION + 2 * row + 1] = total(multiply(state, output1)) + single(ready, OUTPUT_BIAS + 1)


@inlined
def _backward(ready, scratch, rows, residual, layer_norm):
    """Add the gradient of this chunk to ``scratch[GRADIENT:]``, that of the first two layers as ``scratch[MOMENT:]``.

    ``scratch[PREDICTION:]`` holds the gradient at the prediction; rows beyond the chunk's points must hold zeros there.
    """
    _backward_output(ready, scratch, rows)
    for layer in range(LAYERS - 1, 0, -1):
        _backward_activation(ready, scratch, rows, layer, residual, layer_norm)
        _backward_product(scratch, rows, layer, residual)
        if residual and layer == 1:
            _add_moments(scratch, rows, SKIP, GRADIENT + INPUT)
    _backward_activation(ready, scratch, rows, 0, residual, layer_norm)
    _add_moments(scratch, rows, DELTA, MOMENT)


@inlined
def _backward_output(ready, scratch, rows):
    """The output layer: its own gradient, and the one at what enters it (BACK)."""
    output0, output1 = load(ready, OUTPUT), load(ready, OUTPUT + HIDDEN)
    offset = GRADIENT + OUTPUT
    gradient0, gradient1 = load(scratch, offset), load(scratch, offset + HIDDEN)
    bias0, bias1 = ZERO, ZERO
    for row in range(rows):
        error0, error1 = scratch[PREDICTION + 2 * row], scratch[PREDICTION + 2 * row + 1]
        bias0 += error0
        bias1 += error1
        state = load(scratch, STATE + (LAYERS - 1) * ROWS + row * HIDDEN)
        gradient0 = multiply_add(error0, state, gradient0)
        gradient1 = multiply_add(error1, state, gradient1)
        store(scratch, BACK + row * HIDDEN, multiply_add(error0, output0, multiply(fill(error1), output1)))
    store(scratch, offset, gradient0)
    store(scratch, offset + HIDDEN, gradient1)
    scratch[GRADIENT + OUTPUT_BIAS] += bias0
    scratch[GRADIENT + OUTPUT_BIAS + 1] += bias1


@inlined
def _backward_activation(ready, scratch, rows, layer, residual, layer_norm):
    """From the gradient at what leaves a layer (BACK) to the one at its sums (DELTA), and of its rows of weights."""
    start = HIDDEN_LAYERS + layer * LAYER_SIZE
    gain, shift = load(ready, start + GAIN), load(ready, start + SHIFT)
    offset = GRADIENT + start
    time_gradient, label_gradient = load(scratch, offset + TIME), load(scratch, offset + LABEL)
    bias_gradient = load(scratch, offset + BIAS)
    gain_gradient, shift_gradient = load(scratch, offset + GAIN), load(scratch, offset + SHIFT)
    for row in range(rows):
        back = load(scratch, BACK + row * HIDDEN)
        normal = load(scratch, NORMAL + layer * ROWS + row * HIDDEN)
        if residual and layer % 2 == 1:
            store(scratch, SKIP + row * HIDDEN, back)
        if layer_norm:
            delta = where_positive(add(multiply(gain, normal), shift), back)
            shift_gradient = add(shift_gradient, delta)
            gain_gradient = add(gain_gradient, multiply(delta, normal))
            delta = multiply(delta, gain)
            along = total(multiply(delta, normal)) * PER_UNIT  # its mean is left in, see _finish_gradient
            delta = multiply_add(-along, normal, delta)
            delta = multiply(delta, fill(single(scratch, SCALE + layer * CHUNK + row)))
        else:
            delta = where_positive(normal, back)
        store(scratch, DELTA + row * HIDDEN, delta)
        bias_gradient = add(bias_gradient, delta)
        if residual and layer == 2:
            time_gradient = multiply_add(scratch[POINT + 4 * row + 2], delta, time_gradient)
            label_gradient = multiply_add(scratch[POINT + 4 * row + 3], delta, label_gradient)
    store(scratch, offset + TIME, time_gradient)
    store(scratch, offset + LABEL, label_gradient)
    store(scratch, offset + BIAS, bias_gradient)
    store(scratch, offset + GAIN, gain_gradient)
    store(scratch, offset + SHIFT, shift_gradient)


@inlined
def _backward_product(scratch, rows, layer, residual):
    """From the gradient at a layer's sums (DELTA) to that of its weights and the one at what leaves the layer below."""
    weights = GRADIENT + HIDDEN_LAYERS + layer * LAYER_SIZE
    below = STATE + (layer - 1) * ROWS
    for unit in range(0, HIDDEN, 4):
        offset = weights + unit * HIDDEN
        sums0, sums1 = load(scratch, offset), load(scratch, offset + HIDDEN)
        sums2, sums3 = load(scratch, offset + 2 * HIDDEN), load(scratch, offset + 3 * HIDDEN)
        _accumulate(scratch, offset, sums0, sums1, sums2, sums3, scratch, DELTA, below + unit, 1, HIDDEN, rows)
    transposed = TRANSPOSED + (layer - 1) * HIDDEN * HIDDEN
    sums0 = sums1 = sums2 = sums3 = fill(ZERO)
    for row in range(0, rows, 4):
        offset = row * HIDDEN
        if residual and layer == 2:  # what enters the second block also goes round it
            sums0, sums1 = load(scratch, SKIP + offset), load(scratch, SKIP + offset + HIDDEN)
            sums2, sums3 = load(scratch, SKIP + offset + 2 * HIDDEN), load(scratch, SKIP + offset + 3 * HIDDEN)
        _accumulate(
            scratch, BACK + offset, sums0, sums1, sums2, sums3, scratch, transposed, DELTA + offset, HIDDEN, 1, HIDDEN
        )


@inlined
def _add_moments(scratch, rows, source, target):
    """Add the sum over the chunk of (x, y, time, label, 1) times the rows at ``source`` to the five at ``target``."""
    sums0, sums1 = load(scratch, target), load(scratch, target + HIDDEN)
    sums2, sums3 = load(scratch, target + 2 * HIDDEN), load(scratch, target + 3 * HIDDEN)
    sums4 = load(scratch, target + 4 * HIDDEN)
    for row in range(rows):
        value = load(scratch, source + row * HIDDEN)
        point = POINT + 4 * row
        sums0 = multiply_add(scratch[point], value, sums0)
        sums1 = multiply_add(scratch[point + 1], value, sums1)
        sums2 = multiply_add(scratch[point + 2], value, sums2)
        sums3 = multiply_add(scratch[point + 3], value, sums3)
        sums4 = add(value, sums4)
    store(scratch, target, sums0)
    store(scratch, target + HIDDEN, sums1)
    store(scratch, target + 2 * HIDDEN, sums2)
    store(scratch, target + 3 * HIDDEN, sums3)
    store(scratch, target + 4 * HIDDEN, sums4)


@inlined
def _finish_gradient(parameters, scratch, residual, layer_norm):
    """The counterpart of :func:`_prepare`, once a step: means taken out, and from the batch's moments the gradient of
    the first two layers' weights.

    A layer norm's gradient at its sums has no mean over the units. Taking the mean out is linear, so it is done here to
    the sums over the batch, and what goes on to the layer below is the same without: it meets weights of no mean.
    """
    if layer_norm:
        _centre(scratch, MOMENT, ENTRIES)
        for layer in range(1, LAYERS):
            _centre(scratch, GRADIENT + HIDDEN_LAYERS + layer * LAYER_SIZE, SUMMED)
    for entry in range(ENTRIES):
        moment = load(scratch, MOMENT + entry * HIDDEN)
        for unit in range(HIDDEN):
            offset, weight = INPUT + entry * HIDDEN + unit, FIRST + unit * HIDDEN
            gradient = multiply_add(single(parameters, offset), moment, load(scratch, GRADIENT + weight))
            store(scratch, GRADIENT + weight, gradient)
            scratch[GRADIENT + offset] += total(multiply(moment, load(parameters, weight)))
    if residual:
        store(scratch, GRADIENT + FIRST + TIME, load(scratch, MOMENT + 2 * HIDDEN))
        store(scratch, GRADIENT + FIRST + LABEL, load(scratch, MOMENT + 3 * HIDDEN))
    store(scratch, GRADIENT + FIRST + BIAS, load(scratch, MOMENT + 4 * HIDDEN))


@inlined
def _adam(parameters, first, second, scratch, rate, step):
    """One Adam step (Kingma and Ba 2015) with the gradient in scratch; ``step`` counts from 1."""
    # in float64: 1 - 0.999 ** step loses four digits in float32 at the first steps
    scale = np.float32(rate / (1 - 0.9**step))
    correction = np.float32(1 / math.sqrt(1 - 0.999**step))
    for offset in range(0, PARAMETERS, HIDDEN):
        gradient = load(scratch, GRADIENT + offset)
        mean = multiply_add(BETA1, load(first, offset), multiply(fill(ONE - BETA1), gradient))
        fresh = multiply(multiply(fill(ONE - BETA2), gradient), gradient)
        square = multiply_add(BETA2, load(second, offset), fresh)
        # of a unit that has died the mean shrinks with every step, and in the end each one would be subnormal
        store(first, offset, not_tiny(mean))
        store(second, offset, square)
        width = multiply_add(correction, square_root(square), fill(ADAM_EPSILON))
        store(parameters, offset, multiply_add(-scale, divide(mean, width), load(parameters, offset)))


@inlined
def _transpose(ready, scratch):
    for layer in range(1, LAYERS):
        start, offset = HIDDEN_LAYERS + layer * LAYER_SIZE, TRANSPOSED + (layer - 1) * HIDDEN * HIDDEN
        for column in range(HIDDEN):
            for row in range(HIDDEN):
                scratch[offset + column * HIDDEN + row] = single(ready, start + row * HIDDEN + column)


@inlined
def _batch_gradient(parameters, ready, scratch, points, labels, order, times, noise, time_scale, residual, layer_norm):
    """Gradient of the mean squared error of a batch (``order`` etc. are the batch's) into ``scratch[GRADIENT:]``."""
    scratch[MOMENT:SCRATCH] = ZERO  # moments and, behind them, the gradient
    _prepare(parameters, ready, residual, layer_norm)
    _transpose(ready, scratch)
    count = order.size
    for begin in range(0, count, CHUNK):
        live = min(CHUNK, count - begin)
        rows = (live + 3) // 4 * 4
        for row in range(rows):
            index = begin + min(row, live - 1)
            time, offset = times[index], POINT + 4 * row
            scratch[offset] = CLEAN[time] * points[order[index], 0] + NOISE[time] * noise[index, 0]
            scratch[offset + 1] = CLEAN[time] * points[order[index], 1] + NOISE[time] * noise[index, 1]
            scratch[offset + 2] = np.float32(time) * time_scale
            scratch[offset + 3] = labels[order[index]]
        _forward(ready, scratch, rows, residual, layer_norm)
        weight = ONE / np.float32(count)  # d/dp of sum (p - e)^2 / (2 count)
        for row in range(rows):
            for component in range(2):
                offset = PREDICTION + 2 * row + component
                error = (scratch[offset] - noise[begin + row, component]) * weight if row < live else ZERO
                scratch[offset] = error
        _backward(ready, scratch, rows, residual, layer_norm)
    _finish_gradient(parameters, scratch, residual, layer_norm)


@compiled
def _train_epoch(
    parameters, ready, first, second, scratch, points, labels, order, times, noise, batch, rate, slope, step, form
):
    """One pass over the points in batches; returns the number of optimiser steps made so far."""
    time_scale, residual, layer_norm = form
    for begin in range(0, order.size, batch):
        end = min(begin + batch, order.size)
        _batch_gradient(
            parameters, ready, scratch, points, labels, order[begin:end], times[begin:end], noise[begin:end],
            time_scale, residual, layer_norm,
        )  # fmt: skip
        _adam(parameters, first, second, scratch, rate + slope * np.float32(step), step + 1)
        step += 1
    return step


@compiled
def _sample(parameters, ready, coefficients, labels, noise, scratch, result, time_scale, residual, layer_norm):
    """Walk every sample from pure noise to the plane with the combined prediction of several networks."""
    position = np.empty(2 * CHUNK, np.float32)
    combined = np.empty(2 * CHUNK, np.float32)
    for network in range(coefficients.size):
        _prepare(parameters[network], ready[network], residual, layer_norm)
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
                _forward(ready[network], scratch, rows, residual, layer_norm)
                for offset in range(2 * rows):
                    combined[offset] += coefficients[network] * scratch[PREDICTION + offset]
            for row in range(live):
                for component in range(2):
                    offset = 2 * row + component
                    moved = STEP_SCALE[time] * (position[offset] - STEP_PREDICTION[time] * combined[offset])
                    if time > 1:
                        moved += STEP_NOISE[time] * noise[begin + row, STEPS - time, component]
                    position[offset] = moved
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
            weights, ready, first, second = (_aligned(PARAMETERS) for _ in range(4))
            weights[:] = parameters[run]
            data, marks = np.ascontiguousarray(points[run]), np.ascontiguousarray(labels[run])
            epochs = epoch_noise(seed, count, shuffled=plan.orders(count))
            step = 0
            for _ in range(plan.epochs):
                draw = next(epochs)
                step = _train_epoch(
                    weights, ready, first, second, self._scratch, data, marks, draw.order, draw.times, draw.noise,
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
            ready = _aligned(weights.size).reshape(weights.shape)
            noise = SamplingNoise(seed)
            for begin in range(0, count, BLOCK):
                block = samples[run, begin : begin + BLOCK]
                _sample(
                    weights, ready, coefficients, marks, noise.block(len(block)), self._scratch, block, *self._form
                )  # fmt: skip
        return samples


def _aligned(size: int) -> np.ndarray:
    """Zeros, float32 ``(size,)``, that begin at a cache line: a row is then four lines and not five."""
    memory = np.zeros(size + 16, np.float32)
    return memory[(-memory.ctypes.data // 4) % 16 :][:size]
