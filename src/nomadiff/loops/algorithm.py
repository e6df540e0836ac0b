"""The interface of a loop's algorithm ``G = A(D)`` (SIMS section 2), for points or images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Algorithm", "LoopData", "LoopModel"]


@dataclass(frozen=True)
class LoopData:
    """The training data of one generation, with its provenance.

    An algorithm that must not know what is synthetic joins the parts (:meth:`joined`); one that may, reads them apart.

    Attributes:
        real: real data, or None in a fully synthetic loop after its first generation.
        synthetic: data made by earlier generations, one array a generation, the oldest first.
    """

    real: np.ndarray | None
    synthetic: tuple[np.ndarray, ...] = ()

    def joined(self, axis: int = 0) -> np.ndarray:
        """Real and synthetic data in one array, real first; ``axis`` is the one that counts the samples."""
        parts = self.synthetic if self.real is None else (self.real, *self.synthetic)
        return np.concatenate(parts, axis=axis)


class LoopModel(Protocol):
    """A trained model that can be sampled and kept."""

    def sample(self, count: int, seed: Any) -> np.ndarray:
        """``count`` samples; sample ``i`` is a function of (seed, i)."""

    def save(self, folder: Path) -> None:
        """Write the model into ``folder`` (which exists) in whole files."""


class Algorithm(Protocol):
    """An algorithm that turns a training set into a model."""

    def fit(
        self, data: LoopData, *, seed: Any, start: LoopModel | None = None, folder: Path | None = None
    ) -> LoopModel:
        """Train a model.

        Args:
            data: the generation's training data.
            seed: seed of the training: an int, or a tuple of ints when several loops are computed together.
            start: the previous generation's model to begin from (warm start); None trains from scratch.
            folder: a folder of this generation's own, where an interrupted training may leave what it needs to go on.
        """

    def load(self, folder: Path) -> LoopModel:
        """Read a model that its ``save`` wrote to ``folder``."""
