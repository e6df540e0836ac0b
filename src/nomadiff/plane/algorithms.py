"""Algorithms in two dimensions: how each method makes a model of its training set.

Every array's first axis is the run: a batch of R independent loops is computed together, ``points`` are ``(R, n, 2)``
and a seed is a tuple of R seeds (R is 1 on a CPU). The same seed gives every method the same base model and the same
own samples, so methods are compared on common random numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from nomadiff.errors import DataError, UsageError
from nomadiff.files import atomic_path
from nomadiff.loops.algorithm import LoopData, LoopModel
from nomadiff.loops.seeds import derived
from nomadiff.plane.learner import Combination, Learner
from nomadiff.safe_pickle import printable

__all__ = [
    "ALGORITHMS",
    "CASD",
    "SIMS",
    "CASDWithProvenance",
    "Neon",
    "PlaneAlgorithm",
    "PlaneModel",
    "RealOnly",
    "SourceGuidance",
    "Standard",
    "plane_algorithm",
]

# What a seed is used for within one generation's training.
_START, _BASE, _OWN_SAMPLES, _AUXILIARY, _SECOND_START = range(5)
_REAL, _SYNTHETIC = 0.0, 1.0


class PlaneModel:
    """Trained networks and how their predictions are weighted: what is sampled is their sum.

    Args:
        learner: trains and samples networks.
        combination: (coefficient, weights ``(R, PARAMETERS)``, source label) of each network.
        base: weights ``(R, PARAMETERS)`` of the base model, where a warm start begins.
    """

    def __init__(self, learner: Learner, combination: Combination, base: np.ndarray) -> None:
        self.learner = learner
        self.combination = tuple(combination)
        self.base = base

    @property
    def nfe(self) -> int:
        """Network evaluations a sampler step."""
        return len(self.combination)

    def sample(self, count: int, seed: tuple[int, ...]) -> np.ndarray:
        """``count`` samples a run, float32 ``(R, count, 2)``."""
        return self.learner.sample(self.combination, count, seed)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` with the networks, their coefficients and labels."""
        from safetensors.numpy import save_file

        tensors = {f"network.{index}": weights for index, (_, weights, _) in enumerate(self.combination)}
        scheme = [[float(coefficient), float(label)] for coefficient, _, label in self.combination]
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file({"base": self.base, **tensors}, temporary, metadata={"combination": json.dumps(scheme)})

    @classmethod
    def load(cls, learner: Learner, folder: Path) -> PlaneModel:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is absent or damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / "model.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                scheme = json.loads(file.metadata()["combination"])
                networks = [file.get_tensor(f"network.{index}") for index in range(len(scheme))]
                base = file.get_tensor("base")
        except (OSError, SafetensorError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise DataError(f"{path}: no two-dimensional model ({printable(str(error), 200)})") from error
        combination = [(coefficient, weights, label) for (coefficient, label), weights in zip(scheme, networks)]
        return cls(learner, combination, base)


class PlaneAlgorithm:
    """Common base of the methods: training a base model and drawing its own samples.

    Args:
        learner: the learner.
        weight: guidance weight, omega of SIMS; methods without guidance take 0.

    Raises:
        UsageError: a weight is given to a method that has none.
    """

    name: ClassVar[str]
    guided: ClassVar[bool] = False

    def __init__(self, learner: Learner, weight: float = 0.0) -> None:
        if weight and not self.guided:
            raise UsageError(f"{self.name} has no guidance weight; it was given {weight:g}")
        self.learner = learner
        self.weight = weight

    def fit(
        self, data: LoopData, *, seed: tuple[int, ...], start: LoopModel | None = None, folder: Path | None = None
    ) -> PlaneModel:
        """Train on one generation's data; see :class:`~nomadiff.loops.algorithm.Algorithm`. ``folder`` is not needed:
        a training here takes less than a second."""
        if start is not None and not isinstance(start, PlaneModel):
            raise UsageError("a warm start in two dimensions begins from a two-dimensional model")
        points, labels = self.training_set(data)
        weights = self.learner.start(derived(seed, _START)) if start is None else start.base
        base = self.learner.train(weights, points, derived(seed, _BASE), plan=self.learner.config.base, labels=labels)
        return PlaneModel(self.learner, self.combine(base, points, seed), base)

    def load(self, folder: Path) -> PlaneModel:
        """Read a model of an earlier generation."""
        return PlaneModel.load(self.learner, folder)

    def training_set(self, data: LoopData) -> tuple[np.ndarray, np.ndarray | None]:
        """Points and their source labels (None for all real) that the base model is trained on."""
        return data.joined(axis=1), None

    def combine(self, base: np.ndarray, points: np.ndarray, seed: tuple[int, ...]) -> Combination:
        """What is sampled, given the trained base and the points it was trained on."""
        return [(1.0, base, _REAL)]

    def own_samples(self, base: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """The internal synthetic set S of SIMS Algorithm 1, step 2."""
        count = self.learner.config.synthetic_count
        return self.learner.sample([(1.0, base, _REAL)], count, derived(seed, _OWN_SAMPLES))

    def auxiliary(self, base: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """The base fine-tuned on its own samples (SIMS Algorithm 1, step 3)."""
        own = self.own_samples(base, seed)
        return self.learner.train(base, own, derived(seed, _AUXILIARY), plan=self.learner.config.auxiliary)


class Standard(PlaneAlgorithm):
    """Standard training: everything is taken for real."""

    name = "standard"


class RealOnly(PlaneAlgorithm):
    """Train on the real part alone: what knowing the provenance is worth without any method."""

    name = "real-only"

    def training_set(self, data: LoopData) -> tuple[np.ndarray, np.ndarray | None]:
        if data.real is None:
            raise UsageError("real-only has nothing to train on in a fully synthetic loop")
        return data.real, None


class SIMS(PlaneAlgorithm):
    """SIMS Algorithm 1: the score ``(1 + w) s_base - w s_auxiliary``; weight 0 is standard training."""

    name = "sims"
    guided = True

    def combine(self, base: np.ndarray, points: np.ndarray, seed: tuple[int, ...]) -> Combination:
        if self.weight == 0:
            return [(1.0, base, _REAL)]
        return [(1 + self.weight, base, _REAL), (-self.weight, self.auxiliary(base, seed), _REAL)]


class Neon(PlaneAlgorithm):
    """Neon (SIMS eq. 6): one network with the weights ``(1 + w) theta_base - w theta_auxiliary``."""

    name = "neon"
    guided = True

    def combine(self, base: np.ndarray, points: np.ndarray, seed: tuple[int, ...]) -> Combination:
        if self.weight == 0:
            return [(1.0, base, _REAL)]
        auxiliary = self.auxiliary(base, seed)
        merged = base + np.float32(self.weight) * (base - auxiliary)
        return [(1.0, merged, _REAL)]


class SourceGuidance(PlaneAlgorithm):
    """One network that knows both sources, steered from the synthetic to the real: ``(1 + w) s(., 0) - w s(., 1)``.

    The base's own samples are source 1, all of its training set is source 0; a second network is trained on both from
    scratch, with the base's plan.
    """

    name = "source-guidance"
    guided = True

    def combine(self, base: np.ndarray, points: np.ndarray, seed: tuple[int, ...]) -> Combination:
        own = self.own_samples(base, seed)
        labels = np.concatenate(
            [np.full(points.shape[:2], _REAL, np.float32), np.full(own.shape[:2], _SYNTHETIC, np.float32)], axis=1
        )
        both = self.learner.train(
            self.learner.start(derived(seed, _SECOND_START)),
            np.concatenate([points, own], axis=1),
            derived(seed, _AUXILIARY),
            plan=self.learner.config.base,
            labels=labels,
        )
        if self.weight == 0:
            return [(1.0, both, _REAL)]
        return [(1 + self.weight, both, _REAL), (-self.weight, both, _SYNTHETIC)]


class CASD(SourceGuidance):
    """CASD with the model's own samples as its synthetic source, sampled as real: source guidance at weight 0.

    CASD in a loop in which it is unknown which training data is synthetic.
    """

    name = "casd"
    guided = False


class CASDWithProvenance(PlaneAlgorithm):
    """CASD that is told what is synthetic: real data is source 0, earlier generations' data source 1.

    Compare it with :class:`RealOnly`, which has the same knowledge, not with methods that do not.
    """

    name = "casd-provenance"

    def training_set(self, data: LoopData) -> tuple[np.ndarray, np.ndarray | None]:
        if data.real is None:
            raise UsageError("casd-provenance samples as real and has seen nothing real in a fully synthetic loop")
        points = data.joined(axis=1)
        labels = np.full(points.shape[:2], _SYNTHETIC, np.float32)
        labels[:, : data.real.shape[1]] = _REAL
        return points, labels


ALGORITHMS: dict[str, type[PlaneAlgorithm]] = {
    algorithm.name: algorithm
    for algorithm in (Standard, SIMS, Neon, SourceGuidance, CASD, CASDWithProvenance, RealOnly)
}
"""The methods by name. Accumulation is a kind of loop, not a method: any of these can be run in it."""


def plane_algorithm(name: str, learner: Learner, weight: float = 0.0) -> PlaneAlgorithm:
    """A method by name.

    Raises:
        UsageError: there is none of that name, or it takes no weight.
    """
    if name not in ALGORITHMS:
        raise UsageError(f"no method called {name!r} in two dimensions; there are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name](learner, weight)
