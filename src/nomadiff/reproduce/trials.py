"""Trials: base models of several seeds, each improved and scored by a recipe's own function, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.files import sha256_of
from nomadiff.improve.confirmation import Gain
from nomadiff.improve.improve import Improved, improve
from nomadiff.improve.weight_search import score_model
from nomadiff.jobs import run_jobs
from nomadiff.methods.dm import DM
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.dry_run import core_hours, gpu_hours
from nomadiff.models.model import Model
from nomadiff.networks.flops import flops_of
from nomadiff.reports.page import Report
from nomadiff.reproduce.data_files import NeededFile, detector_named, file_lines, require_files
from nomadiff.reproduce.published import published
from nomadiff.reproduce.recipe import Recipe, Request, Result
from nomadiff.reproduce.sims_settings import Subject
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table, read_table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import versions

__all__ = ["Cost", "Trial", "run_trials", "scorer", "scoring_seed", "trial_recipe", "trials_of", "verdict_of"]

_FRESH = 9  # keeps the noise of recipes apart from what tuning and confirmation use

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One base model of one seed.

    Attributes:
        subject: the base, how it is improved, and what it is judged by.
        seed: of its training, its improvement and its scores.
        folder: everything that it leaves behind.
        data: folder with the files it reads.
        device: where to compute.
    """

    subject: Subject
    seed: int
    folder: Path
    data: Path | None = None
    device: str | None = None

    def path(self, name: str) -> str:
        """Where a set of images is: digits by their name, others in ``data``."""
        return name if name.startswith("digits:") or self.data is None else str(self.data / name)

    @cached_property
    def base(self) -> Model:
        """The base: trained in ``folder/base``, or published."""
        if self.subject.model:
            return Model.load(self.path(self.subject.model), device=self.device)
        preset, budget = self.subject.preset, self.subject.base_budget
        return DM(preset, budget=budget, seed=self.seed).fit(
            SourceMix(self.real()), self.folder / "base", device=self.device
        )

    def real(self) -> ImageSource:
        """The real images the base is trained on."""
        return ImageSource.open(self.path(self.subject.train), name="real", synthetic=False)

    @cached_property
    def reference(self) -> ReferenceSet:
        """What samples are judged by."""
        subject, path = self.subject, self.path(self.subject.reference)
        detector = detector_named(subject.detector, self.data, self.device)
        options: dict[str, Any] = {"detector": detector, "device": self.device or "cpu"}
        if path.endswith((".npz", ".pkl")):
            return ReferenceSet.load(path, **options)
        if subject.classifier:
            options["classifier"] = self.path(subject.classifier)
        images = ImageSource.open(path, name="reference", synthetic=False).pixels
        return ReferenceSet(images, train=self.real().pixels if subject.train else None, **options)

    def improved(self, name: str = "improved", *, reference: ReferenceSet | None = None, **changes: Any) -> Improved:
        """The base improved in ``folder/name`` with the subject's settings, some of them changed."""
        settings = replace(self.subject.improvement, seed=self.seed, **changes)
        return improve(self.base, self.folder / name, settings, reference=reference, device=self.device)

    def scorer(self) -> Callable[..., dict[str, Any]]:
        """Scores candidates, all on the same fresh noise; see :func:`scorer`."""
        return scorer(self.folder, self.reference, self.subject.count, scoring_seed(self.seed))


def scorer(folder: Path, reference: ReferenceSet, count: int, seed: int) -> Callable[..., dict[str, Any]]:
    """A function that scores candidates and keeps every score in ``folder/scores.json``, so that none is lost.

    It is called as ``score(make, sampler=None, **key)``: ``make()`` makes the model, ``key`` names it and begins the
    row. A candidate that was scored before is read, not made.

    Args:
        folder: where the scores are kept.
        reference: what to score against.
        count: samples of every candidate.
        seed: seed of all samples.
    """
    kept = folder / "scores.json"
    table = read_table(kept) if kept.exists() else Table()

    def score(make: Callable[[], Model], *, sampler: SamplerConfig | None = None, **key: Any) -> dict[str, Any]:
        for row in table.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        row = {**key, **score_model(make(), reference, count, seed, sampler=sampler)}
        table.rows.append(row)
        table.write(kept)
        return row

    return score


def scoring_seed(seed: int, index: int = 0) -> int:
    """Seed of the noise that a recipe scores with: fresh, and the same for all candidates of a seed."""
    return mixed_seed(seed, _FRESH, index) % (1 << 31)


def verdict_of(gain: Gain) -> Any:
    """Whether a gain is sure: "good", or "bad" for a sure loss, or "neutral"."""
    return "good" if gain.low > 0 else "bad" if gain.high < 0 else "neutral"


@dataclass(frozen=True)
class Cost:
    """What a recipe does with one subject and seed.

    Attributes:
        what: in words.
        plain, guided: sets that are drawn from one network and from two.
        copies: auxiliaries that are fine-tuned.
        bases: models that are trained as the base is.
    """

    what: str
    plain: int = 0
    guided: int = 0
    copies: int = 1
    bases: int = 1


def trial_recipe(
    name: str,
    description: str,
    subjects: Mapping[str, Sequence[Subject]],
    work: Callable[..., Rows],
    cost: Callable[..., Cost],
    report: Callable[[Table, Table, Sequence[Trial]], Report],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """A recipe that does the same with several base models and seeds.

    It writes ``table`` and, if the work concludes anything, ``verdicts`` (JSON and CSV), and ``report.html``.

    Args:
        name, description: of the recipe.
        subjects: the base models, by scale.
        work: ``work(trial, **settings)`` gives rows; those with a ``sentence`` are verdicts.
        cost: ``cost(subject, **settings)`` for the plan.
        report: ``report(table, verdicts, trials)``.
        settings: further settings, by scale.
    """
    more = settings or {}

    def files(request: Request) -> list[NeededFile]:
        return [file for subject in subjects[request.scale] for file in subject.files]

    def plan(request: Request) -> str:
        lines = file_lines(files(request), request.data)
        for subject in subjects[request.scale]:
            lines.append(_plan_line(subject, len(_seeds(request)), cost(subject, **more.get(request.scale, {}))))
        return "\n".join(lines)

    def run(request: Request) -> Result:
        require_files(name, files(request), request.data)
        out, device = request.out, request.device
        trials = trials_of(subjects[request.scale], _seeds(request), out, data=request.data, device=device)
        read = {file.name: sha256_of(file.path(request.data)) for file in dict.fromkeys(files(request))}
        table = run_trials(
            name, work, trials, out, processes=request.processes, read=read, **more.get(request.scale, {})
        )
        table.meta["command"] = request.command
        verdicts = Table([row for row in table.rows if "sentence" in row], table.meta)
        table.rows = [row for row in table.rows if "sentence" not in row]
        table.write(out / "table.json")
        if verdicts.rows:
            verdicts.write(out / "verdicts.json")
        page = report(table, verdicts, trials)
        page.command = request.command
        if quoted := published(name):
            quoted.table().write(out / "quoted.json")
            page.tables = [*page.tables, quoted.page_table()]
        page.write(out / "report.html")
        return Result(table, quoted.markdown() if quoted else "")

    options = ("data", "seeds", "processes", "device")
    return Recipe(name=name, description=description, scales=tuple(subjects), options=options, plan=plan, run=run)


def _seeds(request: Request) -> tuple[int, ...]:
    """The seeds asked for, or the scale's own: on digits 10 to 13, on which nothing was tuned."""
    own = {"small": (10, 11, 12, 13), "medium": (10, 11)}
    return request.seeds or own.get(request.scale, (10,))


def _plan_line(subject: Subject, seeds: int, cost: Cost) -> str:
    """One subject and what all its seeds cost."""
    settings, preset = subject.improvement, preset_named(subject.preset)
    assert settings.synthetic_count is not None and settings.budget is not None
    images = settings.synthetic_count * cost.copies + subject.count * (cost.plain + 2 * cost.guided)
    passes = images * preset.sampler.nfe + 3 * (settings.budget * cost.copies + subject.base_budget * cost.bases)
    operations = seeds * passes * _forward(subject.preset)
    on_cpu = f", core hours: {core_hours(operations)}" if subject.files and subject.base_budget else ""
    return (
        f"{subject.name}: {cost.what}; {settings.synthetic_count:,} own samples, {settings.budget:,} images of "
        f"fine-tuning, {subject.count:,} samples a score; {seeds} seed(s): {operations / 1e15:,.3g} PFLOP, "
        f"GPU hours: {gpu_hours({'fp16': operations})}{on_cpu}"
    )


@lru_cache
def _forward(preset: str) -> float:
    """Operations of one forward pass."""
    return flops_of(preset_named(preset).network, 1000 if preset.startswith("imagenet") else 0)


def trials_of(
    subjects: Sequence[Subject],
    seeds: Sequence[int],
    out: Path,
    *,
    data: Path | None = None,
    device: str | None = None,
) -> list[Trial]:
    """A trial for every subject and seed, in a folder of its own below ``out/runs``."""
    return [
        Trial(subject, seed, out / "runs" / f"{subject.name}-seed{seed}", data, device)
        for subject in subjects
        for seed in seeds
    ]


def run_trials(
    recipe: str,
    work: Callable[..., Rows],
    trials: Sequence[Trial],
    out: Path,
    *,
    processes: int | None = None,
    read: Mapping[str, str] | None = None,
    **settings: Any,
) -> Table:
    """Do ``work(trial, **settings)`` for every trial, side by side.

    Finished ones are kept in ``journal.jsonl``, half-done ones go on where they were; with other settings, or with
    other contents of the files that are ``read`` (a hash each), they do not.

    Returns:
        All rows, each with its ``base`` in front; the meta says what they depend on.
    """
    subjects = list(dict.fromkeys(trial.subject for trial in trials))
    about = {"recipe": recipe, "subjects": json.loads(json.dumps([asdict(subject) for subject in subjects]))}
    about["extra"] = {name: str(value) for name, value in settings.items()}
    about |= {"files": dict(read)} if read else {}
    keyed = {(subjects.index(trial.subject), trial.seed): trial for trial in trials}
    found = run_jobs(
        partial(_one, work, keyed, settings),
        list(keyed),
        out / "journal.jsonl",
        about,
        processes=processes,
        label=lambda key: f"{subjects[key[0]].name}, seed {key[1]}",
    )
    return Table([row for rows in found.values() for row in rows], {"recipe": recipe, "versions": versions()})


def _one(
    work: Callable[..., Rows], trials: Mapping[tuple[int, int], Trial], settings: Mapping[str, Any], *key: int
) -> Rows:
    trial = trials[key[0], key[1]]
    trial.reference  # noqa: B018 - a detector that is missing is told before hours of training
    return [{"base": trial.subject.name, **row} for row in work(trial, **settings)]
