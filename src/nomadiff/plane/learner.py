"""The learners of two-dimensional loops: diffusion models small enough to train a million times.

A preset is a network and two training plans. None is *the* learner of the SIMS paper, which does not publish batch,
learning rate or network; each caption says what it is and how it was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.extras import install_command
from nomadiff.plane.network import Network, initial_parameters
from nomadiff.plane.schedule import STEPS
from nomadiff.plane.training_plan import TrainingPlan

__all__ = ["PRESETS", "Combination", "Learner", "LearnerConfig", "learner_config"]

Combination = Sequence[tuple[float, np.ndarray, float]]
"""Networks to sample with: (coefficient, weights ``(R, PARAMETERS)``, source label) each; coefficients sum to 1."""


@dataclass(frozen=True)
class LearnerConfig:
    """A learner: its network and how base and auxiliary are trained.

    Attributes:
        name: what tables call it.
        caption: what it is and how it was chosen, in one sentence.
        network: form of the network.
        base: training of a base model.
        auxiliary: fine-tuning on own samples (SIMS Algorithm 1, step 3).
        synthetic_count: own samples the auxiliary is trained on (n_s = |S| of Algorithm 1).
    """

    name: str
    caption: str
    network: Network
    base: TrainingPlan
    auxiliary: TrainingPlan
    synthetic_count: int = 2000


_WHOLE = 2048
"""The notebook's batch: with 1000 to 2000 points one step an epoch, so 100 steps in all."""

PRESETS = {
    config.name: config
    for config in (
        LearnerConfig(
            "P",
            "the literal reading with the first version of the notebook SIMS cites: residual network with layer norm, "
            "raw t, batch 2048, Adam 1e-3; not chosen by its results",
            Network(),
            base=TrainingPlan(100, _WHOLE, 1e-3),
            auxiliary=TrainingPlan(50, _WHOLE, 1e-3),
        ),
        LearnerConfig(
            "P0",
            "the literal reading with that notebook as it stood when SIMS cited it: plain network without layer norm, "
            "raw t, batch 2048, Adam 1e-3; not chosen by its results",
            Network(residual=False, layer_norm=False),
            base=TrainingPlan(100, _WHOLE, 1e-3),
            auxiliary=TrainingPlan(50, _WHOLE, 1e-3),
        ),
        LearnerConfig(
            "N",
            "the nearest to the paper that a search found (residual network without layer norm, raw t, batch 128, Adam "
            "1e-3, auxiliary at 3e-5): chosen for its ratios among 64 learners, then 16 auxiliaries and weights",
            Network(layer_norm=False),
            base=TrainingPlan(100, 128, 1e-3),
            auxiliary=TrainingPlan(50, 128, 3e-5),
        ),
        LearnerConfig(
            "P2",
            "an under-trained learner (100 full-batch steps at 2e-3, auxiliary at 3e-4), picked by hand among about 50 "
            "for strong growth without SIMS and strong gain with it, not for closeness to the paper",
            Network(),
            base=TrainingPlan(100, _WHOLE, 2e-3),
            auxiliary=TrainingPlan(50, _WHOLE, 3e-4),
        ),
        LearnerConfig(
            "G",
            "a well-trained learner (batch 128, no layer norm, t in [0, 1), learning rate 1e-3 to 1e-5): the "
            "counter-case, near the floor that 1000 real points set",
            Network(layer_norm=False, time_scale=1 / STEPS),
            base=TrainingPlan(100, 128, 1e-3, 1e-5),
            auxiliary=TrainingPlan(50, 128, 1e-4),
        ),
    )
}
"""The built-in learners by name."""


def learner_config(name: str) -> LearnerConfig:
    """A built-in learner's configuration.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"no learner called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


class _Kernel(Protocol):
    def train(
        self, parameters: np.ndarray, points: np.ndarray, labels: np.ndarray, plan: TrainingPlan, seeds: Sequence[int]
    ) -> np.ndarray: ...

    def sample(self, combination: Combination, count: int, seeds: Sequence[int]) -> np.ndarray: ...


class Learner:
    """Trains and samples the networks of a batch of R runs; every array's first axis is the run.

    Args:
        config: network and plans.
        device: ``"cpu"`` uses the compiled kernel; anything else is a PyTorch device and uses the batched one;
            ``"torch"`` is the batched one on the CPU (slow, the reference).

    Raises:
        UsageError: the compiled kernel is asked for and numba is not installed, or there is no such device.
    """

    def __init__(self, config: LearnerConfig, device: str = "cpu") -> None:
        self.config = config
        self._kernel = _kernel(config.network, device)

    def start(self, seeds: Sequence[int]) -> np.ndarray:
        """Fresh weights of every run, float32 ``(R, PARAMETERS)``."""
        return np.stack([initial_parameters(self.config.network, seed) for seed in seeds])

    def train(
        self,
        parameters: np.ndarray,
        points: np.ndarray,
        seeds: Sequence[int],
        *,
        plan: TrainingPlan,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """Train from ``parameters`` with a fresh optimiser.

        Args:
            parameters: float32 ``(R, PARAMETERS)``; not changed.
            points: float32 ``(R, n, 2)``.
            seeds: one seed a run.
            plan: the base's, the auxiliary's or any other plan.
            labels: float32 ``(R, n)``, source label of each point; None for all 0.

        Returns:
            float32 ``(R, PARAMETERS)``.
        """
        marks = np.zeros(points.shape[:2], np.float32) if labels is None else labels
        return self._kernel.train(parameters, points, marks, plan, seeds)

    def sample(self, combination: Combination, count: int, seeds: Sequence[int]) -> np.ndarray:
        """Draw ``count`` samples a run, float32 ``(R, count, 2)``; sample ``i`` of a run is a function of (seed, i)."""
        return self._kernel.sample(combination, count, seeds)


def _kernel(network: Network, device: str) -> _Kernel:
    if device != "cpu":
        from nomadiff.plane.kernel_torch import TorchKernel
        from nomadiff.processes import join_processes

        return TorchKernel(network, "cpu" if device == "torch" else str(join_processes(device).device))
    try:
        from nomadiff.plane.kernel_numba import NumbaKernel
    except ImportError as error:
        raise UsageError(
            f"two-dimensional loops on a CPU need numba: {install_command('loops')} (or device='torch', slower)"
        ) from error
    return NumbaKernel(network)
