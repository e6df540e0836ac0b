"""``improve`` as a study: copies, searches and confirmations are jobs that any number of workers share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError, UsageError
from nomadiff.files import remove_tree
from nomadiff.improve.improve import Improved, Task, of_repeat
from nomadiff.improve.parts import COPY, do_part, parts_of, take_parts
from nomadiff.improve.settings import Improvement
from nomadiff.job_folder import Job, JobFolder
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.plain import from_plain, plain_settings
from nomadiff.processes import join_processes
from nomadiff.workflows.base_model import base_model
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.improve import improvement_report
from nomadiff.workflows.workers import work_on

__all__ = ["ImprovementStudy", "begin_improvement", "improve_study", "improvement_jobs", "jobs_from"]


@dataclass(frozen=True, kw_only=True)
class ImprovementStudy:
    """An improvement from files; see :func:`~nomadiff.workflows.improve.improve_files`, which does it in one process.

    Attributes:
        model: where the base is stored.
        out: folder of the improvement.
        improvement: settings.
        held_out: real images to choose by.
        train: the real images the base was trained on.
        vae: autoencoder of a model of latents.
        device: where to compute.
        command: the command line.
        facts: what the plan depends on and only the base tells: its hash, and images of one fine-tuning.
    """

    model: str
    out: Path
    improvement: Improvement
    held_out: HeldOut = HeldOut()  # noqa: RUF009 - frozen
    train: str | None = None
    vae: str | None = None
    device: str | None = None
    command: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any] | None:
        """Its settings as plain values, for other processes; None where some of them are objects in memory."""
        parts = {"improvement": dict(vars(self.improvement)), "held_out": dict(vars(self.held_out))}
        values = {name: value for name, value in vars(self).items() if name != "out"}
        return plain_settings("improve", {**values, **parts})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], out: Path) -> ImprovementStudy:
        """The improvement that :meth:`to_dict` gave, in a folder.

        Raises:
            DataError: the values are no settings of an improvement.
        """
        where = f"{out}: not the settings of an improvement"
        try:
            parts: dict[str, Any] = {name: from_plain(kind, values[name], where) for name, kind in _KINDS.items()}
            found = cls(**{**values, **parts, "out": out})
            _ = str(found.facts["base_sha256"]), int(found.facts["images"])
        except (TypeError, ValueError, LookupError) as error:
            raise DataError(f"{where} ({error})") from error
        return found

    @property
    def parts(self) -> Path:
        """Where parts leave their scores."""
        return self.out / "parts"

    def of_copy(self, number: int) -> tuple[Improvement, Path, str]:
        """Settings, folder and the beginning of the jobs' names of a copy of the base, counted from 1."""
        if number == 1:
            return self.improvement, self.out, ""
        return of_repeat(self.improvement, number), self.out / f"repeat-{number}", f"repeat-{number}-"

    def task(self, number: int, device: str | None) -> tuple[Task, Model, ReferenceSet | None]:
        """The improvement of a copy, and what it is of and scored by."""
        device = device or self.device
        base = base_model(self.model, "improve", self.out, join_processes(device), vae=self.vae)
        reference = self.held_out.open(base, train=self.train)
        settings, out, prefix = self.of_copy(number)
        command = "" if prefix else self.command
        return Task.of(base, out, settings, reference=reference, device=device, command=command), base, reference


_KINDS: dict[str, type] = {"improvement": Improvement, "held_out": HeldOut}


def improve_study(study: ImprovementStudy, workers: int) -> Improved:
    """Improve a model by several processes; others may help (``nomadiff work``). The result is that of one process.

    Args:
        study: what to do.
        workers: processes side by side.

    Raises:
        UsageError, DataError, NomadiffError, Interrupted: as :func:`~nomadiff.workflows.improve.improve_files`.
    """
    study = begin_improvement(study)
    *jobs, last = improvement_jobs(study)
    work_on(study.out, jobs, device=study.device, processes=workers)
    made: list[Improved] = []
    # a job like the others: whoever helps may be at it already, and holds the folder
    mine = replace(last, run=lambda device: made.append(_choose(study, device)))
    work_on(study.out, [*jobs, mine], device=study.device, processes=1)
    return made[0] if made else _choose(study, study.device)


def begin_improvement(study: ImprovementStudy) -> ImprovementStudy:
    """Check everything and write the plan, from which any process can work; gives the study with its facts.

    Raises:
        UsageError, DataError: something is wrong with the images or options; the folder holds something else.
    """
    if study.to_dict() is None:
        raise UsageError("workers read files: give the model, the reference and the detector by their names")
    task, base, _ = study.task(1, None)
    facts = {"base_sha256": base.sha256, "images": task.copy.config.training.budget}
    study = ImprovementStudy(**{**vars(study), "facts": facts})
    folder, settings = JobFolder(study.out), study.to_dict()
    if (folder.path / "study.json").exists() and not _differ(folder.settings(), settings or {}):
        folder.forget_failures()  # others may be at work
        return study
    for number in range(1, study.improvement.repeats + 1):
        task = task if number == 1 else study.task(number, None)[0]
        with task.copy.held():
            task.copy.claim(task.scoring())
    folder.write_plan(improvement_jobs(study), settings)
    folder.forget_failures()
    return study


def improvement_jobs(study: ImprovementStudy) -> list[Job]:
    """The parts of every copy's improvement, and the last one, which chooses and reports."""
    scored = study.held_out.reference is not None
    settings = study.to_dict() or {}
    whole = {name: settings.get(name) for name in ("facts", "improvement", "held_out", "train", "vae")}
    jobs: list[Job] = []
    chosen: list[str] = []
    for number in range(study.improvement.repeats, 0, -1):  # the first copy last, whose choice is of all
        improvement, out, prefix = study.of_copy(number)
        trained = _hash([study.facts, improvement.of_auxiliary()])
        names = parts_of(improvement, scored=scored)
        for name, after in names.items():
            job = partial(_part, study, number, name)
            before = tuple(prefix + part for part in after)
            if name == COPY:
                made, where = (
                    (out / "auxiliary" / "model.safetensors",),
                    str((out / "auxiliary").relative_to(study.out)),
                )
                jobs.append(Job(prefix + name, job, before, made, trained, int(study.facts["images"]), where, True))
            else:
                jobs.append(Job(prefix + name, job, before, (), _hash([whole, number])))
        last = partial(_choose, study) if number == 1 else partial(_choose_again, study, number)
        before = (*chosen, *(prefix + name for name in names))
        products = (out / "guidance.json", *([study.out / "report.html"] if scored and number == 1 else []))
        jobs.append(Job(f"{prefix}choice", last, before, products, _hash([whole, number])))
        chosen.append(jobs[-1].name)
    return jobs


def jobs_from(settings: Mapping[str, Any], out: Path) -> list[Job]:
    """The jobs of an improvement in a folder, by the settings that :meth:`ImprovementStudy.to_dict` gave.

    Raises:
        DataError: they are no such settings.
    """
    return improvement_jobs(ImprovementStudy.from_dict(settings, out))


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(name) != value for name, value in new.items() if name != "command")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _part(study: ImprovementStudy, number: int, name: str, device: str | None) -> None:
    task, _, _ = study.task(number, device)
    study.parts.mkdir(parents=True, exist_ok=True)
    do_part(task, name, study.parts, study.of_copy(number)[2])


def _choose_again(study: ImprovementStudy, number: int, device: str | None) -> None:
    """The choice of another copy, whose gain the first one's takes over."""
    task, _, _ = study.task(number, device)
    with task.copy.held():
        task.run(lambda: take_parts(task, study.parts, study.of_copy(number)[2]))


def _choose(study: ImprovementStudy, device: str | None) -> Improved:
    task, base, reference = study.task(1, device)
    with task.copy.held():
        done = task.run(lambda: take_parts(task, study.parts))
    if done.gain is not None:
        assert reference is not None
        improvement_report(done, base, reference, command=study.command).write(study.out / "report.html")
    remove_tree(study.parts, ignore_errors=True)
    return done
