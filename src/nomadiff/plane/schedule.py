"""The diffusion of two-dimensional loops: DDPM in 40 steps with the cosine schedule.

Ho et al. 2020 (ancestral sampling, variance beta_t) with the cosine schedule of Nichol and Dhariwal 2021, as in the
notebook the SIMS paper cites (albarji/toy-diffusion): the cumulative product is normalised to 1 at ``t = 0``, so that
step carries no noise; it is drawn in training all the same.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CLEAN", "NOISE", "STEPS", "STEP_NOISE", "STEP_PREDICTION", "STEP_SCALE"]

STEPS = 40
"""Number of noise levels; the sampler walks t = 39, 38, ..., 1."""

_OFFSET = 0.008
_cosine = np.cos((np.arange(STEPS) / STEPS + _OFFSET) / (1 + _OFFSET) * np.pi / 2) ** 2
_cumulative = _cosine / _cosine[0]
_alpha = _cumulative / np.concatenate([_cumulative[:1], _cumulative[:-1]])

CLEAN = np.sqrt(_cumulative).astype(np.float32)
"""Factor of the clean point in the noisy one, ``x_t = CLEAN[t] x_0 + NOISE[t] eps``; float32 ``(40,)``."""
NOISE = np.sqrt(1 - _cumulative).astype(np.float32)
"""Factor of the noise in the noisy point; float32 ``(40,)``."""

# One step back: x_{t-1} = STEP_SCALE[t] (x_t - STEP_PREDICTION[t] eps(x_t, t)) + STEP_NOISE[t] z  (DDPM, Algorithm 2)
STEP_SCALE = (1 / np.sqrt(_alpha)).astype(np.float32)
"""Factor of a step back; float32 ``(40,)``."""
STEP_PREDICTION = np.divide(1 - _alpha, np.sqrt(1 - _cumulative), out=np.zeros(STEPS), where=_cumulative < 1).astype(
    np.float32
)
"""Factor of the predicted noise in a step back; float32 ``(40,)``."""
STEP_NOISE = np.where(np.arange(STEPS) > 1, np.sqrt(1 - _alpha), 0).astype(np.float32)
"""Standard deviation of the noise added in a step back, 0 for the last one (t = 1); float32 ``(40,)``."""
