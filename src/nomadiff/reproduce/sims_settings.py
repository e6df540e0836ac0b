"""What the SIMS recipes share: bases to improve, references, and resumable jobs.

========  ==========================================================================================================
``smoke``  seconds on digits: shows that the recipe runs, nothing else
``small``  within an hour on two cores: digits, a base that was trained for a short time and one that has converged
``paper``  the paper's published networks and references, from ``--data``; GPU days (``--dry-run`` prints both)
========  ==========================================================================================================

The settings on digits were fixed on seeds 0 to 3 (300 steps for the short base; 2,000 own samples; a fine-tuning at a
quarter of the learning rate for 100 steps; weight 1); recipes score on fresh noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.improve.improve import Improved, improve
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import score_model
from nomadiff.jobs import run_jobs
from nomadiff.methods.dm import DM
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.dry_run import gpu_hours
from nomadiff.models.model import Model
from nomadiff.networks.flops import flops_of
from nomadiff.networks.presets import NETWORKS
from nomadiff.reproduce.study import NeededFile
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table, read_table
from nomadiff.training.run_folder import versions

__all__ = [
    "DIGITS_SHORT",
    "PAPER",
    "SMOKE",
    "Subject",
    "at_scale",
    "improved",
    "missing_files",
    "plan_line",
    "run_seeds",
    "scorer",
    "scoring_seed",
    "seeds_of",
]

DIGITS_SHORT = Improvement(
    weight=1.0, synthetic_count=2000, budget=12_800, snapshots=1, learning_rate=5e-4, evaluations=4, confirmations=4
)
_MI = 1_000_000
_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs"
_EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs"
_FRESH = 9  # keeps the noise of recipes apart from what tuning and confirmation use


@dataclass(frozen=True)
class Subject:
    """A base model, how it is improved, and what it is judged by.

    Attributes:
        name: what tables call the base.
        improvement: settings; the seed is the recipe's.
        count: samples of every candidate.
        steps_budget: images its training on digits sees; 0 for a published network.
        model: name of the published network's folder in ``--data``, made by ``nomadiff import``.
        reference: reference images, or a statistics file in ``--data``.
        detector: feature space.
        weight: the paper's best weight, or the one fixed for digits.
        origin: where the reference file comes from.
        network, steps: its architecture and solver steps, for the plan of a recipe.
    """

    name: str
    improvement: Improvement
    count: int
    steps_budget: int = 0
    model: str = ""
    reference: str = "digits:reference"
    detector: str = "digits"
    weight: float = 1.0
    origin: str = ""
    network: str = "digits"
    steps: int = 18

    def files(self) -> list[NeededFile]:
        """The files that it reads from ``--data``."""
        if not self.model:
            return []
        return [
            NeededFile(self.model, f"the folder that `nomadiff import {self.model} --out {self.model}` makes"),
            NeededFile(self.reference, self.origin),
        ]

    def base(self, out: Path, seed: int, data: Path | None, device: str | None) -> Model:
        """The base: trained on the digits pool in ``out/base``, or read."""
        if self.model:
            assert data is not None
            return Model.load(data / self.model, device=device)
        mix = SourceMix(ImageSource.open("digits:pool", name="real", synthetic=False))
        return DM("digits", budget=self.steps_budget, seed=seed).fit(mix, out / "base", device=device)

    def judge(self, data: Path | None, device: str | None) -> ReferenceSet:
        """The reference. Statistics files give the distance alone."""
        judge_device = device or "cpu"
        if self.model:
            assert data is not None
            return ReferenceSet.load(data / self.reference, detector=self.detector, device=judge_device)
        held_out = ImageSource.open(self.reference, name="reference", synthetic=False)
        seen = ImageSource.open("digits:pool", name="real", synthetic=False)
        return ReferenceSet(held_out.images, train=seen.images, detector=self.detector, device=judge_device)


SMOKE = (
    Subject(
        "short",
        replace(DIGITS_SHORT, synthetic_count=64, budget=256, count=64, confirmations=2, evaluations=2),
        64,
        steps_budget=256,
    ),
)


def _published(
    model: str, reference: str, network: str, steps: int, *, budget: int, own: int, weight: float
) -> Subject:
    settings = Improvement(weight=weight, synthetic_count=own, budget=budget, snapshots=3, count=50_000)
    origin = f"{_EDM2 if reference.endswith('.pkl') else _EDM}/{reference}"
    return Subject(
        network.split("-")[0], settings, 50_000, 0, model, reference, "inception", weight, origin, network, steps
    )


# SIMS section 4.1 and appendices B to E: own samples, budget and weight of its best models. ImageNet-512's one draws
# latents, which Stable Diffusion's autoencoder decodes (from the hub, unless it is in its cache)
PAPER = (
    _published("edm-cifar10-uncond-vp", "cifar10-32x32.npz", "cifar10", 18, budget=40 * _MI, own=100_000, weight=0.8),
    _published("edm-ffhq-uncond-vp", "ffhq-64x64.npz", "ffhq64", 40, budget=34 * _MI, own=100_000, weight=1.5),
    _published("edm2-img64-s", "img64.pkl", "imagenet64-edm2-s", 32, budget=56 * _MI, own=1_500_000, weight=0.9),
    _published("edm2-img512-s", "img512.pkl", "imagenet512-edm2-s", 32, budget=102 * _MI, own=1_500_000, weight=0.7),
)


def at_scale(
    scale: str, digits: Sequence[Subject], smoke: Sequence[Subject], paper: Sequence[Subject] = PAPER
) -> tuple:
    """The subjects of a scale.

    Raises:
        UsageError: there is no such scale.
    """
    scales = {"smoke": smoke, "small": digits, "paper": paper}
    if scale not in scales:
        raise UsageError(f"unknown scale '{scale}': choose one of {', '.join(scales)}")
    return tuple(scales[scale])


def seeds_of(scale: str, seeds: Sequence[int] | None) -> tuple[int, ...]:
    """The seeds asked for, or the scale's own: on digits 10 to 13, on which nothing was tuned."""
    if seeds is not None:
        return tuple(seeds)
    return (10, 11, 12, 13) if scale == "small" else (10,)


def missing_files(subjects: Sequence[Subject], data: Path | None) -> list[str]:
    """Lines on the files a recipe reads, each found or missing.

    Returns:
        One line a file; none if it needs none.
    """
    lines = []
    for file in dict.fromkeys(file for subject in subjects for file in subject.files()):
        found = data is not None and (data / file.name).exists()
        lines.append(f"{'found  ' if found else 'missing'}  {file.name}: {file.origin}")
    return lines


def plan_line(subject: Subject, what: str, *, seeds: int, plain: float = 0, guided: float = 0, copies: int = 1) -> str:
    """One subject of a recipe and its cost.

    Args:
        subject: the subject.
        what: what is done with it.
        seeds: how often.
        plain, guided: sets that are drawn from one network and from two.
        copies: auxiliaries that are fine-tuned.
    """
    settings = subject.improvement
    assert settings.synthetic_count is not None and settings.budget is not None
    images = settings.synthetic_count * copies + subject.count * (plain + 2 * guided)
    passes = images * (2 * subject.steps - 1) + 3 * (settings.budget * copies + subject.steps_budget)
    operations = seeds * passes * _forward(subject.network)
    return (
        f"{subject.name}: {what}; {settings.synthetic_count:,} own samples, {settings.budget:,} images of fine-tuning, "
        f"{subject.count:,} samples a score; {seeds} seed(s): {operations / 1e15:,.3g} PFLOP, "
        f"GPU hours: {gpu_hours({'fp16': operations})}"
    )


@lru_cache
def _forward(network: str) -> float:
    """Operations of one forward pass."""
    return flops_of(NETWORKS[network], 1000 if network.startswith("imagenet") else 0)


def scorer(folder: Path, subject: Subject, reference: ReferenceSet, seed: int) -> Callable[..., dict[str, Any]]:
    """A function that scores candidates and keeps every score in ``folder/scores.json``, so that none is lost.

    It is called as ``score(make, sampler=None, **key)``: ``make()`` makes the model, ``key`` names it and begins the
    row. A candidate that was scored before is read, not made.

    Args:
        folder: where the scores are kept.
        subject: says how many samples.
        reference: what to score against.
        seed: seed of all samples.
    """
    kept = folder / "scores.json"
    table = read_table(kept) if kept.exists() else Table()

    def score(make: Callable[[], Model], *, sampler: SamplerConfig | None = None, **key: Any) -> dict[str, Any]:
        for row in table.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        row = {**key, **score_model(make(), reference, subject.count, seed, sampler=sampler)}
        table.rows.append(row)
        table.write(kept)
        return row

    return score


def scoring_seed(seed: int, index: int = 0) -> int:
    """Seed of the noise that a recipe scores with: fresh, and the same for all candidates of a seed."""
    return mixed_seed(seed, _FRESH, index) % (1 << 31)


def improved(
    subject: Subject,
    out: Path,
    seed: int,
    *,
    base: Model,
    reference: ReferenceSet | None = None,
    device: str | None = None,
    **changes: Any,
) -> Improved:
    """Improve a subject's base with its settings, some of them changed."""
    settings = replace(subject.improvement, seed=seed, **changes)
    return improve(base, out, settings, reference=reference, device=device)


@dataclass(frozen=True)
class _Job:
    """The input of a worker process: the recipe's function and all its arguments but the key."""

    work: Callable[..., list[dict[str, Any]]]
    subjects: tuple[Subject, ...]
    out: Path
    data: Path | None
    device: str | None
    extra: dict[str, Any] = field(default_factory=dict)


def _one(job: _Job, number: int, seed: int) -> list[dict[str, Any]]:
    subject = job.subjects[number]
    folder = job.out / "runs" / f"{subject.name}-seed{seed}"
    rows = job.work(subject, folder, seed, job.data, job.device, **job.extra)
    return [{"base": subject.name, **row} for row in rows]


def run_seeds(
    recipe: str,
    work: Callable[..., list[dict[str, Any]]],
    subjects: Sequence[Subject],
    seeds: Sequence[int],
    out: Path,
    *,
    processes: int | None = None,
    data: Path | None = None,
    device: str | None = None,
    **extra: Any,
) -> Table:
    """Do ``work(subject, folder, seed, data, device, **extra)`` for every subject and seed, side by side.

    Finished ones are kept in ``journal.jsonl``, half-done ones go on where they were.

    Returns:
        All rows, each with its ``base`` in front; the meta says what they depend on.

    Raises:
        DataError: files are missing; found before anything starts.
    """
    if absent := [line for line in missing_files(subjects, data) if line.startswith("missing")]:
        where = data if data is not None else "--data FOLDER"
        names = ", ".join(line.split()[1].rstrip(":") for line in absent)
        raise DataError(f"{recipe} needs {names} in {where}; --dry-run says where they come from")
    job = _Job(work, tuple(subjects), out, data, device, extra)
    keys = [(number, seed) for number in range(len(subjects)) for seed in seeds]
    about = {"recipe": recipe, "subjects": json.loads(json.dumps([asdict(subject) for subject in subjects]))}
    about["extra"] = {name: str(value) for name, value in extra.items()}
    found = run_jobs(
        partial(_one, job),
        keys,
        out / "journal.jsonl",
        about,
        processes=processes,
        label=lambda key: f"{subjects[key[0]].name}, seed {key[1]}",
    )
    rows = [row for key in keys for row in found[key]]
    return Table(rows, {"recipe": recipe, "versions": versions()})
