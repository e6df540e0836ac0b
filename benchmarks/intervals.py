"""Do claims hold? Simulations of what `improve` and `verdict` say, where the truth is known.

``improve``: the base *is* the truth, so every claimed gain is wrong. Images are 8x8 Gaussians; candidates move away
from the base at random, or narrow it, which the Frechet distance of few samples rewards. A base that is too wide shows
that true gains are still found.

``verdict``: distances of arms over two, three and four seeds, with spreads between runs that differ from arm to arm,
and seeds that move all arms together. An interval should hold the true change in 95 % of trials.

    python benchmarks/intervals.py [--trials 300]
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.improve.confirmation import Gain
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import Chooser
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.verdict import judge
from nomadiff.processes import Processes
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table

SIDE = 8
SPREADS = 40 * np.exp(-np.arange(SIDE * SIDE) / 32)  # of 64 pixels, in grey levels: a covariance like that of images
BUDGETS = (1, 2, 3, 4)


class DistanceOnly(ReferenceSet):
    """Measures the Frechet distance alone: nothing else is asked for here."""

    def evaluate(self, samples: Any, *, read: Any = None, **_: Any) -> dict[str, Any]:
        return {"fd_pixels": self.distance((read or self.read(samples))[0])}


def gaussian(noise: np.ndarray) -> Tensor:
    """Standard normal ``(N, 64)`` as grey images."""
    pixels = np.clip(np.rint(128 + SPREADS * noise), 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels.reshape(-1, 1, SIDE, SIDE))


class Simulated(Chooser):
    """Candidates that are linear maps of the base's samples, drawn from the same noise.

    Args:
        kind: "random" directions, or "narrow": every candidate is the base with less spread.
        wrong: the base's spread is larger than the truth's by this share.
        images: of the reference.
    """

    def __init__(self, seed: int, images: int, kind: str, wrong: float, settings: Improvement) -> None:
        random = np.random.default_rng(seed)
        reference = DistanceOnly(gaussian(random.standard_normal((images, SIDE * SIDE))), detector="pixels")
        alone = Processes(0, 1, torch.device("cpu"))
        super().__init__(settings, reference, lambda *_: None, Table(), lambda: None, alone)  # type: ignore
        self.wrong, self.noise, self.moves = wrong, seed, {}
        for budget in BUDGETS:
            turn = random.standard_normal((SIDE * SIDE, SIDE * SIDE)) / math.sqrt(2 * SIDE * SIDE)
            turn, shift = (turn + turn.T) / math.sqrt(2), random.standard_normal(SIDE * SIDE)
            if kind == "narrow":
                turn, shift = -np.eye(SIDE * SIDE), 0 * shift
            self.moves[budget] = turn * budget * 0.015, shift * budget * 0.015

    def draw(self, budget: int, weight: float, seed: int) -> tuple[Tensor, dict[str, Any]]:
        generator = np.random.default_rng(mixed_seed(self.noise, seed))
        noise = generator.standard_normal((self.improvement.count, SIDE * SIDE))
        moved = noise * (1 + self.wrong)
        if weight:
            turn, shift = self.moves[budget]
            moved = moved + weight * (noise @ turn + shift)
        return gaussian(moved), {}


def improvement_claim(seed: int, images: int, kind: str, wrong: float = 0.0) -> Gain:
    """What `improve` finds in one trial."""
    chooser = Simulated(seed, images, kind, wrong, Improvement())
    return chooser.confirm(*chooser.search(BUDGETS))


def verdict_interval(seed: int, arms: int, seeds: int, spreads: list[float], of_seed: float) -> tuple[float, float]:
    """Interval of the second arm's change against the first, of which the truth is 0, as `verdict` finds it."""
    random = np.random.default_rng(seed)
    moved = of_seed * random.standard_normal(seeds)
    rows = []
    for arm, spread in enumerate(spreads[:arms]):
        method, source = ("casd", str(arm)) if arm else ("dm", "")
        for number in range(seeds):
            distance = 10 * math.exp(moved[number] + spread * random.standard_normal())
            rows.append({"method": method, "source": source, "seed": number, "fd": distance})
    item = judge(rows, distance="fd").find("no harm", "casd", "1").evidence[0]
    return item.low, item.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    print("improve: sure gains\n\n| reference | base is the truth, random | narrow | base 5 % too wide, narrow |")
    print("|---|---|---|---|")
    for images in (300, 797, 5000):
        cells = []
        for kind, wrong in (("random", 0.0), ("narrow", 0.0), ("narrow", 0.05)):
            most = min(trials, 40) if wrong else trials
            gains = [improvement_claim(seed, images, kind, wrong) for seed in range(most)]
            cells.append(f"{np.mean([gain.is_sure for gain in gains]):.1%} ({np.mean([g.low > 0 for g in gains]):.0%})")
        print(f"| {images:,} | {' | '.join(cells)} |", flush=True)
    print("\nIn brackets: without the comparison with the base as the truth.")
    print("\nverdict: share of intervals that hold the truth (median width of the change's logarithm)\n")
    print("| arms | seeds | runs differ by 10 % | seeds by 20 % more | an arm's by 30 % | the baseline's by 30 % |")
    print("|---|---|---|---|---|---|")
    settings = (([0.1] * 5, 0.0), ([0.1] * 5, 0.2), ([0.1, 0.3, *[0.1] * 3], 0.0), ([0.3, *[0.1] * 4], 0.0))
    for arms in (2, 3, 5):
        for seeds in (2, 3, 4):
            cells = []
            for spreads, of_seed in settings:
                found = [verdict_interval(trial, arms, seeds, spreads, of_seed) for trial in range(4 * trials)]
                width = np.median([math.log1p(high) - math.log1p(low) for low, high in found])
                cells.append(f"{np.mean([low <= 0 <= high for low, high in found]):.1%} ({width:.2f})")
            print(f"| {arms} | {seeds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
