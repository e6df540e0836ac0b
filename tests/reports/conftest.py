"""Reports to test with: real digits, and arms faked by copying, shifting and blurring them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nomadiff.reports.page import Composition, Figure, Finding, GridPanel, Neighbours, Report
from nomadiff.reports.plots import Curve, metric_lines
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table

METRICS = [
    MetricInfo("fd_digits", "fd_digits", "lower", 30.5, "Fréchet distance to the held-out real digits."),
    MetricInfo("precision", "precision", "higher", 0.93, "Share of samples that lie among real images."),
    MetricInfo("recall", "recall", "higher", 0.94, "Share of real images that lie among the samples."),
    MetricInfo("density", "density", "higher", 1.01, "How densely real images surround the samples."),
    MetricInfo("coverage", "coverage", "higher", 0.95, "Share of real images that have a sample nearby."),
    MetricInfo("replication", "replication", "lower", 0.031, "Share of samples that copy a training image."),
    MetricInfo("composition_tv", "composition distance", "lower", 0.034, "Total variation between class shares."),
]
MEANS = {  # from a prototype's measurements: the shape of real results
    ("dm", ""): (213, 0.97, 0.39, 1.2, 0.66, 0.94, 0.06),
    ("sda", "close"): (86, 0.79, 0.97, 0.74, 0.83, 0.23, 0.08),
    ("casd", "close"): (99, 0.90, 0.85, 0.93, 0.78, 0.26, 0.07),
    ("sda", "style"): (975, 0.34, 0.87, 0.21, 0.23, 0.005, 0.21),
    ("casd", "style"): (184, 0.76, 0.97, 0.68, 0.68, 0.07, 0.11),
}


def fake_rows(seeds: int) -> list[dict]:
    random = np.random.default_rng(0)
    rows = []
    for (method, source), means in MEANS.items():
        for seed in range(seeds):
            values = {m.field: float(mean * random.normal(1, 0.06)) for m, mean in zip(METRICS, means)}
            rows.append({"method": method, "source": source, "seed": seed, "images_seen": 153_600, **values})
    return rows


def fake_log(seed: int, level: float) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"images_seen": 128 * step, "loss": level * (1 + 6 * math.exp(-step / 60)) * float(random.normal(1, 0.08))}
        for step in range(8, 1201, 8)
    ]


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """scikit-learn's scans of digits as uint8 (1797, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(np.round(load_digits().images * 255 / 16).astype(np.uint8))[:, None]


def build_report(digits: torch.Tensor) -> Report:
    """A full report: three methods, two sources, four seeds."""
    generator = torch.Generator().manual_seed(0)

    def noisy(images: torch.Tensor, amount: float) -> torch.Tensor:
        noise = amount * torch.randn(images.shape, generator=generator)
        return (images.float() + noise).clip(0, 255).to(torch.uint8)

    def blurred(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1).to(torch.uint8)

    train, held_out, fresh = digits[:100], digits[1000:1064], digits[1200:1264]
    copies = train[torch.randint(0, 100, (64,), generator=generator)]
    sources = {"close": lambda x: noisy(x, 24), "style": lambda x: 255 - blurred(x)}
    panels = [GridPanel("real", "held-out digits", held_out, 8, method="real")]
    for source, spoil in sources.items():
        panels.append(GridPanel("synthetic", "what the source looks like", spoil(digits[300:364]), 8, source=source))
    panels.append(GridPanel("dm", "real digits only", copies, 8, method="dm"))
    for source, spoil in sources.items():
        panels += [
            GridPanel(
                "sda",
                "sources mixed, no label",
                torch.where(torch.rand(64, 1, 1, 1, generator=generator) < 0.8, spoil(fresh), fresh),
                8,
                source,
                "sda",
            ),
            GridPanel("casd", "asked for the real source", noisy(fresh, 10), 8, source, "casd"),
        ]

    def neighbours(title: str, samples: torch.Tensor, sentence: str) -> Neighbours:
        distance = torch.cdist(samples.flatten(1).float(), train.flatten(1).float()) / 255
        nearest = distance.min(dim=1)
        return Neighbours(
            title, samples, train[nearest.indices], nearest.values.tolist(), sentence, title.split(",")[0]
        )

    rows = fake_rows(4)
    shares = np.random.default_rng(1).dirichlet(np.full(10, 60), size=6)
    arms = [("real", ""), *MEANS]
    bowl = [
        {
            "weight": w / 4,
            "budget": f"{b} Ki",
            "seed": s,
            "fd": 40 + 30 * (w / 4 - 1.2 + b / 40) ** 2 + s,
        }
        for w in range(11)
        for b in (6, 12, 25)
        for s in range(3)
    ]
    return Report(
        title="Does synthetic data help on 100 real digits?",
        subtitle="DM, SDA and CASD at equal budget, 4 seeds, scored against 797 held-out digits",
        findings=[
            Finding(
                "With the style-shifted source, CASD lies 5.3 times nearer to the real digits than SDA "
                "(fd_digits 184 against 975).",
                "good",
            ),
            Finding(
                "DM, trained on the 100 real digits alone, copies them: 94 % of its samples replicate a training "
                "image, against 3 % for fresh real digits.",
                "bad",
            ),
            Finding(
                "With the close source SDA is nearer than CASD in fd_digits (86 against 99); the difference is about "
                "two standard deviations.",
                "neutral",
            ),
        ],
        arms={
            "real": "held-out digits that no model saw",
            "dm": "trained on the real images only",
            "sda": "trained on real and synthetic images together, without telling them apart",
            "casd": "trained on both with a source label, then asked for the real source",
        },
        grids=panels,
        table=Table(
            rows,
            {
                "detector": "digits classifier, 64 features",
                "samples": 1000,
                "reference": {"count": 797, "sha256": "9f2c51e07b6d4a18"},
            },
        ),
        metrics=METRICS,
        neighbours=[
            neighbours(
                "dm",
                noisy(copies[:12], 6),
                "94 % of the samples of dm lie nearer to a training image than "
                "held-out real digits usually do; held-out digits themselves: 3 %.",
            ),
            neighbours("casd, style", noisy(fresh[:12], 10), "7 % of the samples of casd replicate a training image."),
        ],
        compositions=[
            Composition(method, {str(digit): float(share) for digit, share in enumerate(row)}, source)
            for (method, source), row in zip(arms, shares)
        ],
        curves=[
            Curve(method, fake_log(10 * index + seed, 0.12 + 0.03 * index), source, seed)
            for index, (method, source) in enumerate(MEANS)
            for seed in range(4)
        ],
        figures=[
            Figure(
                "Distance against guidance weight",
                metric_lines(bowl, "weight", "fd", by="budget", floor=30.5, x_label="guidance weight"),
                "Weight 0 is the base model. Lower is better.",
            )
        ],
        provenance=[
            {
                "name": "real",
                "role": "real",
                "count": 100,
                "origin": "scikit-learn load_digits, seeded random 100",
                "sha256": "4b1f0c9aa3de",
            },
            {
                "name": "style",
                "role": "synthetic",
                "count": 2000,
                "origin": "blurred and inverted digits, made for this demo without download",
                "sha256": "77d2e1c03f55",
            },
        ],
        command="nomadiff demo --out demo --seeds 4 --real-count 100 --synthetic close --synthetic style=./style",
        versions={"nomadiff": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.0"},
        notes=[
            "Digits of 8 by 8 pixels: nothing here says how the methods rank on photographs.",
            "The detector is a small classifier trained on digits; its distance is not an FID.",
        ],
    )


@pytest.fixture(scope="session")
def example_report(digits: torch.Tensor) -> Report:
    """A full report, to be read only."""
    return build_report(digits)


@pytest.fixture
def full_report(digits: torch.Tensor) -> Report:
    """A full report of the test's own."""
    return build_report(digits)
