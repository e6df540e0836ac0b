"""A self-consuming loop with a learner of your own, judged and reported like every other: python own_loop.py OUT.

The learner is a kernel density estimate. Its samples are wider than its data by the kernel, so a loop that feeds on
them alone spreads out more and more; with the real points in every generation's training set it comes to rest.
"""

import sys
from pathlib import Path

import numpy as np

from nomadiff.loops import AutophagousLoop, report_loops
from nomadiff.plane import world
from nomadiff.plane.distances import bures_wasserstein

truth = world("gaussian")


class Kernels:
    """Kernels of width 0.3 around some points."""

    def __init__(self, points):
        self.points = points

    def sample(self, count, seed):
        draw = np.random.default_rng(seed)
        chosen = self.points[draw.integers(len(self.points), size=count)]
        return chosen + 0.3 * draw.normal(size=chosen.shape)

    def save(self, folder):
        np.save(folder / "points.npy", self.points)


class Density:
    """The algorithm: from the training set of a generation to its model."""

    def fit(self, data, *, seed, start=None, folder=None):
        return Kernels(data.joined())

    def load(self, folder):
        return Kernels(np.load(folder / "points.npy"))


out = Path(sys.argv[1])
curves = {}
for kind in ("fully synthetic", "synthetic augmentation"):
    loop = AutophagousLoop(
        Density(),
        kind,
        real=truth.sample,
        real_count=500,
        synthetic_count=500,
        distances={"distance": lambda samples: float(bures_wasserstein(samples, truth))},
    )
    curves[kind] = [loop.run(10, seed, out / f"{kind}-{seed}", description=kind) for seed in range(5)]

table = report_loops(curves, out, distance="distance", arms={kind: f"Kernels in a {kind} loop." for kind in curves})
for kind, sentence in table.meta["madness"].items():
    print(f"{kind}: {sentence}")
print(f"report: {out / 'report.html'}")
