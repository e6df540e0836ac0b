"""The small network of two-dimensional loops: its shape, and where each weight lies in one flat vector.

The network predicts the noise in a point of the plane, ``eps(x, t, label)``. Four hidden layers of 64 units in one of
two forms:

* *residual*: two blocks of ``z + f(z)``, where ``f`` is (linear, layer norm, ReLU) twice and the step ``t`` enters
  each block again. The network in the first version of the notebook the SIMS paper cites (albarji/toy-diffusion,
  11 May 2023), but for the width inside a block: 64, there 65;
* *plain*: (linear, ReLU) four times; ``t`` enters at the input only. The network in that notebook since 13 May 2023.

All weights of one network are one flat float32 vector, so that merging two networks (Neon), the optimiser and a batch
of networks are plain array arithmetic. Both forms share the layout; what a form does not use stays as it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LAYERS", "PARAMETERS", "Network", "initial_parameters", "named_parameters"]

HIDDEN = 64
LAYERS = 4
INPUTS = 4
"""Rows of the input layer: x, y, time, source label."""

# Offsets in the flat vector, in floats; every row has HIDDEN floats.
INPUT = 0
INPUT_BIAS = INPUT + INPUTS * HIDDEN
HIDDEN_LAYERS = INPUT_BIAS + HIDDEN
# within a hidden layer: weights (input-major: row k holds what unit k of the layer below sends to all 64), then rows
TIME = HIDDEN * HIDDEN
LABEL = TIME + HIDDEN
BIAS = LABEL + HIDDEN
GAIN = BIAS + HIDDEN
SHIFT = GAIN + HIDDEN
LAYER_SIZE = SHIFT + HIDDEN
OUTPUT = HIDDEN_LAYERS + LAYERS * LAYER_SIZE
OUTPUT_BIAS = OUTPUT + 2 * HIDDEN
PARAMETERS = OUTPUT_BIAS + HIDDEN
"""Length of the flat vector. The last row holds the two output biases and is padded with zeros."""


@dataclass(frozen=True)
class Network:
    """The form of the network.

    Attributes:
        residual: True for the residual form, False for the plain one.
        layer_norm: normalise each hidden layer before its ReLU (the residual form of the notebook does).
        time_scale: the step ``t`` in 0..39 enters as ``t * time_scale``: 1 is the raw integer, 1/40 the unit interval.
    """

    residual: bool = True
    layer_norm: bool = True
    time_scale: float = 1.0


def named_parameters(flat: Any) -> dict[str, Any]:
    """Views of the flat vector by name; ``flat`` is ``(..., PARAMETERS)``, numpy or torch.

    Returns:
        ``input`` (..., 4, 64) with rows x, y, time, label; ``input_bias`` (..., 64); and for each hidden layer ``l``
        ``weight.l`` (..., 64, 64) input-major, ``time.l``, ``label.l``, ``bias.l``, ``gain.l``, ``shift.l`` (..., 64);
        ``output`` (..., 2, 64) and ``output_bias`` (..., 2).
    """
    leading = tuple(flat.shape[:-1])

    def rows(start: int, count: int) -> Any:
        return flat[..., start : start + count * HIDDEN].reshape(*leading, count, HIDDEN)

    named = {"input": rows(INPUT, INPUTS), "input_bias": flat[..., INPUT_BIAS : INPUT_BIAS + HIDDEN]}
    for layer in range(LAYERS):
        start = HIDDEN_LAYERS + layer * LAYER_SIZE
        named[f"weight.{layer}"] = rows(start, HIDDEN)
        for name, offset in (("time", TIME), ("label", LABEL), ("bias", BIAS), ("gain", GAIN), ("shift", SHIFT)):
            named[f"{name}.{layer}"] = flat[..., start + offset : start + offset + HIDDEN]
    named["output"] = rows(OUTPUT, 2)
    named["output_bias"] = flat[..., OUTPUT_BIAS : OUTPUT_BIAS + 2]
    return named


def initial_parameters(network: Network, seed: int) -> np.ndarray:
    """Fresh weights, float32 ``(PARAMETERS,)``.

    Linear layers are uniform in ±1/sqrt(inputs), as PyTorch's ``Linear``; layer norms start at gain 1 and shift 0. The
    label is not counted among the inputs, so an unlabelled network starts as if it had none.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    flat = np.zeros(PARAMETERS, dtype=np.float32)
    named = named_parameters(flat)

    def draw(name: str, inputs: int) -> None:
        bound = inputs**-0.5
        named[name][...] = generator.uniform(-bound, bound, named[name].shape)

    draw("input", 3)
    draw("input_bias", 3)
    for layer in range(LAYERS):
        sees_time = network.residual and layer % 2 == 0
        inputs = HIDDEN + (1 if sees_time else 0)
        draw(f"weight.{layer}", inputs)
        draw(f"bias.{layer}", inputs)
        if sees_time:
            draw(f"time.{layer}", inputs)
            draw(f"label.{layer}", inputs)
        named[f"gain.{layer}"][...] = 1
    draw("output", HIDDEN)
    draw("output_bias", HIDDEN)
    return flat
