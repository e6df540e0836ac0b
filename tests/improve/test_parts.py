"""``improve`` as a study of jobs: whoever does them, and in whatever pieces, the result is that of one process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import noise_source, tiny_preset

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.improve import weight_search
from nomadiff.improve.settings import Improvement
from nomadiff.job_folder import JobFolder, work
from nomadiff.methods.dm import DM
from nomadiff.models.model import Model
from nomadiff.studies.work import study_status, work_study
from nomadiff.workflows import improve_jobs
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.improve import improve_files
from nomadiff.workflows.improve_jobs import (
    ImprovementStudy,
    begin_improvement,
    improve_study,
    improvement_jobs,
    jobs_from,
)

PRESET = tiny_preset(budget=160, learning_rate=1e-2, snapshot_every=160, ema_half_life=20)
QUICK = Improvement(synthetic_count=40, budget=64, snapshots=2, count=30, evaluations=3, confirmations=2, repeats=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    DM(PRESET).fit(SourceMix(noise_source("real")), root / "base", device="cpu")
    np.save(root / "held-out.npy", noise_source("reference", 9).images.numpy())
    return root


def settled(files: Path, out: Path, **changes: Any) -> ImprovementStudy:
    held_out = HeldOut(reference=str(files / "held-out.npy"), detector="pixels")
    improvement = dataclasses.replace(QUICK, **changes)
    return ImprovementStudy(
        model=str(files / "base"), out=out, improvement=improvement, held_out=held_out, device="cpu"
    )


def by_one(study: ImprovementStudy, out: Path) -> Path:
    improve_files(study.model, out, study.improvement, study.held_out, device="cpu")
    return out


def found(out: Path) -> dict[str, Any]:
    """All that an improvement leaves, without times."""
    result: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.name == "guidance.json" or path.suffix in (".safetensors", ".zip")
    }
    for path in sorted(out.rglob("improve.json")):
        table = json.loads(path.read_text())
        table["meta"].pop("command"), table["meta"].pop("versions")
        for row in table["rows"]:
            row.pop("seconds_per_image")
        result[str(path.relative_to(out))] = table
    return result


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The sets that are drawn from now on."""
    drawn: list[tuple[float, int]] = []
    usual = weight_search.Chooser.draw

    def draw(self: Any, budget: int, weight: float, seed: int) -> Any:
        drawn.append((budget, weight, seed))
        return usual(self, budget, weight, seed)

    monkeypatch.setattr(weight_search.Chooser, "draw", draw)
    return drawn


def test_jobs_one_by_one_are_one_improvement(files, tmp_path, monkeypatch):
    drawn = counted(monkeypatch)
    study = begin_improvement(settled(files, tmp_path / "jobs"))
    names = [job.name for job in improvement_jobs(study)]
    assert names == [
        *(f"repeat-2-{name}" for name in ("copy", "search-0", "search-1", "search-2", "fresh-1", "fresh-2")),
        *("repeat-2-confirm-1", "repeat-2-confirm-2", "repeat-2-choice"),
        *("copy", "search-0", "search-1", "search-2", "fresh-1", "fresh-2", "confirm-1", "confirm-2", "choice"),
    ]
    work_study(tmp_path / "jobs", processes=1)
    mine = sorted(drawn)
    drawn.clear()
    by_one(study, tmp_path / "one")
    assert mine == sorted(drawn)  # nothing twice
    assert found(tmp_path / "jobs") == found(tmp_path / "one")
    assert not (tmp_path / "jobs" / "parts").exists() and (tmp_path / "jobs" / "report.html").exists()
    assert {row["state"] for row in study_status(tmp_path / "jobs")} == {"done"}
    copies = [row for row in study_status(tmp_path / "jobs") if row["job"].endswith("copy")]
    assert [(row["images"], row["of"]) for row in copies] == [(64, 64), (64, 64)]
    drawn.clear()
    done = improve_study(settled(files, tmp_path / "jobs"), 1)  # nothing is left to do
    assert drawn == [] and done.gain is not None
    assert Model.load(tmp_path / "jobs", device="cpu").sha256 == done.model.sha256


@pytest.mark.slow
def test_workers_that_are_killed_share_an_improvement(files, tmp_path):
    study = begin_improvement(settled(files, tmp_path / "many"))
    command = [sys.executable, "-m", "nomadiff", "work", str(study.out), "--jobs", "1"]

    def worker() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    workers = [worker(), worker()]
    for kill in range(2):
        done = len(list(study.out.glob("jobs/*/done.json")))
        while len(list(study.out.glob("jobs/*/done.json"))) < min(done + 2, 12):
            time.sleep(0.05)
        workers[kill % 2].kill()
        workers[kill % 2].wait()
        workers[kill % 2] = worker()
    assert [each.wait(300) for each in workers] == [0, 0]
    assert found(tmp_path / "many") == found(by_one(study, tmp_path / "one"))


def test_the_choice_is_a_job_that_a_helper_may_be_at(files, tmp_path, monkeypatch):
    """A helper that was faster held the folder: what had begun it all ended with "in use by another process"."""
    study = begin_improvement(settled(files, tmp_path / "out", repeats=1))
    *jobs, last = improvement_jobs(study)
    work(study.out, jobs)
    usual, claims = improve_jobs._choose, []

    def choosing(*given: Any) -> Any:
        claims.append([path.name for path in study.out.glob("jobs/choice/claim-*")])
        return usual(*given)

    monkeypatch.setattr(improve_jobs, "_choose", choosing)
    assert improve_study(study, 1).gain is not None and claims == [["claim-1"]]
    assert JobFolder(study.out).is_done(last)
    assert improve_study(study, 1).gain is not None and claims == [["claim-1"], []]  # a helper has made it: read


def test_another_weight_takes_scores_alone_and_what_was_scored_is_known(files, tmp_path, monkeypatch):
    one = {"repeats": 1, "confirmations": 2}
    improve_study(settled(files, tmp_path / "out", **one), 1)
    copy = (tmp_path / "out" / "auxiliary" / "model.safetensors").stat().st_mtime_ns
    drawn = counted(monkeypatch)
    done = improve_study(settled(files, tmp_path / "out", weight=0.7, **one), 1)
    assert done.table.meta["best"]["weight"] == 0.7
    assert {weight for _, weight, _ in drawn} <= {0.7, 0.0}
    assert (tmp_path / "out" / "auxiliary" / "model.safetensors").stat().st_mtime_ns == copy
    drawn.clear()
    improve_study(settled(files, tmp_path / "out", **one), 1)  # back to what was searched before
    assert [weight for _, weight, _ in drawn] == [0.0, 0.0]  # what was read of fresh noise is not kept


def test_parts_that_are_gone_or_damaged_are_made_again(files, tmp_path, monkeypatch):
    study = begin_improvement(settled(files, tmp_path / "jobs", repeats=1))
    *jobs, last = improvement_jobs(study)
    work(study.out, jobs)
    (study.parts / "fresh-1.json").unlink()
    (study.parts / "search-1.json").write_text("{")
    (study.parts / "fresh-2.safetensors").write_bytes(b"torn")
    JobFolder(study.out).mark_done(jobs[0])
    (study.out / "jobs" / "confirm-2" / "done.json").unlink()
    work(study.out, [*jobs, last])
    mine, whole = found(study.out), found(by_one(study, tmp_path / "one"))
    for each in (mine, whole):  # scores that were made again come last
        each["improve.json"]["rows"].sort(key=json.dumps)
        each["improve.json"]["meta"]["confirmation"].sort(key=json.dumps)
    assert mine == whole


def test_what_others_cannot_read_or_is_damaged_is_told(files, tmp_path):
    study = settled(files, tmp_path / "out")
    objects = HeldOut(reference=noise_source("reference", 9), detector="pixels")
    with pytest.raises(UsageError, match="workers read files"):
        begin_improvement(dataclasses.replace(study, held_out=objects))
    assert not (tmp_path / "out").exists()
    begun = begin_improvement(study)
    settings = JobFolder(begun.out).settings()
    for name in ("study", "folder"):
        settings.pop(name)
    made = [(job.name, job.about, job.after, job.products) for job in jobs_from(settings, begun.out)]
    assert made == [(job.name, job.about, job.after, job.products) for job in improvement_jobs(begun)]
    for wrong in ({}, {**settings, "facts": {}}, {**settings, "improvement": {"repeats": "x"}}, {**settings, "a": 1}):
        with pytest.raises(DataError, match="settings of an improvement"):
            jobs_from(wrong, begun.out)
