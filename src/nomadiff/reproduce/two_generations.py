"""Two generations of image models, the second trained on samples of the first: the models of SIMS Figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.selection import parse_subset
from nomadiff.errors import UsageError
from nomadiff.files import atomic_path
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.loops.algorithm import LoopData
from nomadiff.loops.images import ImageStandard
from nomadiff.loops.seeds import derived
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.reproduce.data_files import CIFAR10, CIFAR10_TEST, NeededFile, detector_named
from nomadiff.reproduce.pollution import SCENARIOS
from nomadiff.reproduce.trials import scorer, scoring_seed

__all__ = ["Generations", "Sizes", "first_generation", "second_generation"]

_FIRST, _POLLUTION, _SECOND, _IMPROVE_FIRST, _IMPROVE_SECOND, _REAL = range(6)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of one scale.

    Attributes:
        preset: network and training.
        budget: images every base sees; the same for both generations, as in the paper.
        changes: further training options.
        improvement: how SIMS fine-tunes.
        weights: guidance weights to choose from, at every snapshot of the fine-tuning.
        real_count: |D_r|.
        amounts: |D_p|, ascending.
        refinements: further amounts that the search for the threshold may try.
        count: samples a model is judged by.
        detector: feature space of the distance.
        seeds: independent repetitions.
    """

    preset: str
    budget: int
    changes: dict[str, Any]
    improvement: Improvement
    weights: tuple[float, ...]
    real_count: int
    amounts: tuple[int, ...]
    refinements: int
    count: int
    detector: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Generations:
    """How both generations are trained and judged, and on what: the input of a worker process.

    Attributes:
        sizes: of the scale.
        out: folder of the recipe.
        data: images instead of the digits: a set of them, or a folder with the two of ``named``.
        device: where to compute.
        named: files of real and of held-out images.
    """

    sizes: Sizes
    out: Path
    data: Path | None
    device: str | None
    named: tuple[NeededFile, NeededFile] = (CIFAR10, CIFAR10_TEST)

    def images(self) -> tuple[Tensor, Tensor]:
        """All real images that may be trained on, and held-out ones: a third, where they are not a set of their own.

        Raises:
            UsageError: there are too few.
        """
        if self.data is None:
            return _real("digits:pool"), _real("digits:reference")
        if all(file.is_in(self.data) for file in self.named):
            real, held_out = (_real(file.path(self.data)) for file in self.named)
        else:
            images = _real(self.data)
            held = parse_subset(f"random:{max(1, len(images) // 3)}:0")(len(images), None)
            real, held_out = images[np.setdiff1d(np.arange(len(images)), held)], images[held]
        if len(real) < self.sizes.real_count:
            raise UsageError(f"{self.data}: {self.sizes.real_count} real images are needed beside the held-out third")
        return real, held_out

    def folder(self, seed: int) -> Path:
        return self.out / "runs" / f"seed-{seed}"

    def real(self, seed: int) -> np.ndarray:
        """D_r of one seed."""
        images = self.images()[0]
        chosen = parse_subset(f"random:{self.sizes.real_count}:{derived(seed, _REAL) % (1 << 31)}")(len(images), None)
        return images[chosen].numpy()

    def judge(self) -> ReferenceSet:
        return ReferenceSet(self.images()[1], detector=self.detector(), device=self.device or "cpu")

    def detector(self) -> Detector:
        return detector_named(self.sizes.detector, self.data, self.device)

    def train(self, data: LoopData, seed: int, folder: Path) -> Model:
        """Standard training: everything is taken for real."""
        sizes = self.sizes
        algorithm = ImageStandard(sizes.preset, device=self.device, budget=sizes.budget, **sizes.changes)
        folder.mkdir(parents=True, exist_ok=True)
        return algorithm.fit(data, seed=seed, folder=folder).model

    def scores(self, base: Model, folder: Path, names: Sequence[str], seed: int, improve_seed: int) -> list[dict]:
        """The base and its best improvement, on noise that the improvement was not chosen by."""
        sizes, against = self.sizes, self.judge()
        metric = distance_name(against.detector)
        settings = replace(sizes.improvement, weight=1.0, seed=improve_seed % (1 << 31))
        candidates = improve(base, folder, settings, device=self.device).candidates
        search = scorer(folder / "search", against, sizes.count, scoring_seed(seed))
        fresh = scorer(folder / "fresh", against, sizes.count, scoring_seed(seed, 1))
        tried = [(budget, weight) for budget in candidates.budgets for weight in sizes.weights]

        def loss(candidate: tuple[int, float]) -> float:
            budget, weight = candidate
            return search(partial(candidates.make, budget, weight), budget=budget, weight=weight)[metric]

        budget, weight = min(tried, key=loss)
        plain = fresh(lambda: base, budget=0, weight=0.0)
        best = fresh(partial(candidates.make, budget, weight), budget=budget, weight=weight)
        return [{"scenario": name, "seed": seed, **row} for name, row in zip(names, (plain, best))]


def _real(spec: str | Path) -> Tensor:
    return ImageSource.open(spec, name="real", synthetic=False).pixels


def first_generation(setting: Generations, seed: int) -> list[dict]:
    """The two scenarios without pollution; leaves D_p for the others."""
    folder = setting.folder(seed)
    base = setting.train(LoopData(setting.real(seed)), derived(seed, _FIRST), folder / "st-i")
    if not (folder / "polluting.npy").exists():
        images = base.sample(setting.sizes.amounts[-1], derived(seed, _POLLUTION)).numpy()
        with atomic_path(folder / "polluting.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, images, allow_pickle=False)
    return setting.scores(base, folder / "sims-i", SCENARIOS[:2], seed, derived(seed, _IMPROVE_FIRST))


def second_generation(setting: Generations, amount: int, seed: int) -> list[dict]:
    """The two scenarios with one amount of pollution. A larger D_p contains the smaller ones."""
    folder = setting.folder(seed)
    made = np.load(folder / "polluting.npy", allow_pickle=False)[:amount]
    # one seed for all amounts, another than the first generation's: it begins from weights of its own
    data, own = LoopData(setting.real(seed), (made,)), derived(seed, _SECOND)
    base = setting.train(data, own, folder / f"st-p-{amount}")
    improvement = derived(seed, _IMPROVE_SECOND)
    rows = setting.scores(base, folder / f"sims-p-{amount}", SCENARIOS[2:], seed, improvement)
    return [{"pollution": amount, **row} for row in rows]
