"""What the network tests share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch


def drawn_weights(shapes: Mapping[str, Sequence[int]], frequency: float) -> dict[str, torch.Tensor]:
    """The fixtures' weights: normal draws keyed by name, scaled so that activations stay moderate.

    ``frequency`` is the standard deviation of the noise embedding's random frequencies.
    """
    weights = {}
    for name, shape in shapes.items():
        value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        if len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[1:]))
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * value
        elif name.endswith("freqs"):
            value = value * frequency
        elif name.endswith("phases"):
            value = value * 2 * np.pi
        elif len(shape) == 0:
            value = 0.7
        else:
            value = 0.1 * value
        weights[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return weights


@pytest.fixture(scope="session", name="drawn_weights")
def _drawn_weights() -> Callable[..., dict[str, torch.Tensor]]:
    return drawn_weights
