"""A study as a folder of jobs: each is done once, whoever is killed; failures are told and tried again."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from nomadiff import job_folder
from nomadiff.errors import DataError, Interrupted, NomadiffError, UsageError
from nomadiff.files import used_alone
from nomadiff.job_folder import Job, JobFolder, work

HERE = Path(__file__).parent
EXPECTED = "".join(f"job{number}: 5 steps\n" for number in range(11))


@pytest.fixture(autouse=True)
def jobs_of(monkeypatch):
    """The module of the jobs, importable here and in new processes."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("work_of_jobs")


def planned(folder: Path, jobs: list[Job]) -> list[Job]:
    JobFolder(folder).write_plan(jobs)
    return jobs


def worker(
    folder: Path, *, beat: float = 0.2, patience: float = 60, pause: float = 0.02, elsewhere: bool = False
) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(beat), str(patience), str(pause), *(["elsewhere"] if elsewhere else [])]
    return subprocess.Popen([sys.executable, str(HERE / "work_of_jobs.py"), *arguments], env={**os.environ})


def steps(folder: Path) -> list[str]:
    return [line.rpartition(" ")[0] for line in (folder / "steps.txt").read_text().splitlines()]


def test_each_job_once_and_after_those_it_needs(tmp_path, jobs_of):
    work(tmp_path, planned(tmp_path, jobs_of.study(tmp_path, pause=0)))
    assert (tmp_path / "report.txt").read_text() == EXPECTED
    assert len(steps(tmp_path)) == len(set(steps(tmp_path))) == 55
    assert [state.state for state in JobFolder(tmp_path).states()] == ["done"] * 12
    assert not list(tmp_path.glob("jobs/*/claim-*"))


def test_processes_share_the_jobs(tmp_path, jobs_of):
    jobs = planned(tmp_path, jobs_of.study(tmp_path))
    work(tmp_path, jobs, processes=2)
    assert (tmp_path / "report.txt").read_text() == EXPECTED
    assert len(steps(tmp_path)) == len(set(steps(tmp_path)))
    assert len({line.split()[-1] for line in (tmp_path / "steps.txt").read_text().splitlines()}) == 2


def test_what_is_missing_or_planned_anew_is_done_again(tmp_path, jobs_of):
    work(tmp_path, planned(tmp_path, jobs_of.study(tmp_path, pause=0)))
    (tmp_path / "job3.txt").unlink()
    work(tmp_path, jobs_of.study(tmp_path, pause=0))
    assert (tmp_path / "job3.txt").exists() and len(steps(tmp_path)) == 55
    work(tmp_path, planned(tmp_path, jobs_of.study(tmp_path, count=3, steps=7, pause=0)))
    assert (tmp_path / "report.txt").read_text() == "".join(f"job{number}: 7 steps\n" for number in range(3))
    assert len(JobFolder(tmp_path).states()) == 4  # jobs that left the plan are gone


def test_a_failed_job_keeps_only_what_needs_it_and_is_tried_again(tmp_path, jobs_of):
    bad = Job("bad", partial(jobs_of.fail, tmp_path), (), (tmp_path / "bad.txt",))
    first, *rest = jobs_of.study(tmp_path, count=2, pause=0)
    jobs = planned(tmp_path, [bad, Job(first.name, first.run, ("bad",), first.products, first.about), *rest])
    with pytest.raises(NomadiffError, match=r"1 of 4 jobs failed; bad: no such\\nimage$"):
        work(tmp_path, jobs)
    states = {state.name: state for state in JobFolder(tmp_path).states()}
    assert {name: each.state for name, each in states.items()} == {
        "bad": "failed", "job0": "waiting", "job1": "done", "report": "waiting",
    }  # fmt: skip
    assert states["bad"].error == r"no such\nimage"
    (tmp_path / "mended").touch()
    with pytest.raises(NomadiffError, match="bad"):
        work(tmp_path, jobs)
    JobFolder(tmp_path).forget_failures()
    work(tmp_path, jobs)
    assert (tmp_path / "report.txt").exists() and not list(tmp_path.glob("jobs/*/failed.json"))


@pytest.mark.parametrize("moment", ["mark_done", "is_current"])
def test_a_claim_is_given_back_also_by_an_interrupt_after_the_work(tmp_path, jobs_of, monkeypatch, moment):
    """The process may live on, as a notebook does: its claim would hold the job for ever."""
    jobs = planned(tmp_path, jobs_of.study(tmp_path, count=1, pause=0))
    owner, interrupts = (JobFolder if moment == "mark_done" else job_folder._Claim), [signal.SIGTERM]
    usual = getattr(owner, moment)

    def interrupted(self, *given):
        if interrupts:
            raise KeyboardInterrupt(interrupts.pop())
        return usual(self, *given)

    monkeypatch.setattr(owner, moment, interrupted)
    with pytest.raises(Interrupted) as stopped:
        work(tmp_path, jobs)
    assert stopped.value.exit_code == 128 + signal.SIGTERM and not list(tmp_path.glob("jobs/*/claim-*"))
    work(tmp_path, jobs)
    assert (tmp_path / "report.txt").exists()


def test_a_study_that_was_planned_anew_is_told(tmp_path, jobs_of):
    planned(tmp_path, jobs_of.study(tmp_path, count=2, pause=0))
    with pytest.raises(NomadiffError, match="was planned anew, without job2; run the same command again"):
        work(tmp_path, jobs_of.study(tmp_path, count=3, pause=0)[:-1])
    (tmp_path / "jobs" / "job0" / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="not the plan of a job"):
        JobFolder(tmp_path).states()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_three_workers_and_thirty_kills(tmp_path, jobs_of):
    draw = random.Random(0)
    workers = [worker(tmp_path) for _ in range(3)]
    for kill in range(30):
        time.sleep(draw.uniform(0.1, 0.5))
        if kill < 10:
            time.sleep(0.5)  # so that they get to work at all
        index = draw.randrange(3)
        workers[index].kill()
        workers[index].wait()
        workers[index] = worker(tmp_path)
    for each in workers:
        assert each.wait(60) == 0
    assert (tmp_path / "report.txt").read_text() == EXPECTED
    for number in range(11):  # a step that was being written when its process was killed is made again, no other
        made = [line for line in steps(tmp_path) if line.startswith(f"job{number} ")]
        assert list(dict.fromkeys(made)) == [f"job{number} {step}" for step in range(1, 6)]
    assert not list(tmp_path.glob("jobs/*/claim-*"))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_claim_of_another_machine_is_taken_over_when_its_heart_stops(tmp_path, jobs_of, monkeypatch):
    first = worker(tmp_path, pause=0.3, elsewhere=True)  # slow: it is killed within a job, not between two
    while not (tmp_path / "steps.txt").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    assert len(claims := list(tmp_path.glob("jobs/*/claim-1"))) == 1
    began = time.monotonic()
    second = worker(tmp_path, patience=2, elsewhere=True)
    assert second.wait(60) == 0
    assert time.monotonic() - began > 2
    assert (tmp_path / "report.txt").read_text() == EXPECTED and not claims[0].exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_lost_its_claim_stops_its_job(tmp_path, jobs_of):
    """A machine that was cut off comes back: the other one's claim stands, and the first goes on with other jobs."""
    first = worker(tmp_path, beat=0.05)
    claims = []
    while not claims:
        assert first.poll() is None
        time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        claims = list(tmp_path.glob("jobs/*/claim-1"))
        if not claims:
            first.send_signal(signal.SIGCONT)
    claim = claims[0]
    name = claim.parent.name
    other = claim.with_name("claim-2")
    other.write_text(json.dumps({"host": "other"}))
    first.send_signal(signal.SIGCONT)
    while len(list(tmp_path.glob("jobs/*/done.json"))) < 10:
        assert first.poll() is None
        time.sleep(0.05)
        other.touch()
    assert not (tmp_path / "jobs" / name / "done.json").exists()
    other.unlink()
    claim.unlink(missing_ok=True)
    assert first.wait(60) == 0
    assert (tmp_path / "report.txt").read_text() == EXPECTED


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("processes", [1, 2])
def test_work_stops_in_time_and_goes_on(tmp_path, jobs_of, processes):
    jobs = planned(tmp_path, jobs_of.study(tmp_path, pause=0.3))
    with pytest.raises(Interrupted, match="states saved"):
        work(tmp_path, jobs, processes=processes, stop_after=1.0)
    assert not list(tmp_path.glob("jobs/*/claim-*"))
    assert not (tmp_path / "report.txt").exists()
    work(tmp_path, jobs_of.study(tmp_path, pause=0))
    assert (tmp_path / "report.txt").read_text() == EXPECTED


def test_what_another_process_uses_is_put_off_and_not_failed(tmp_path, jobs_of, monkeypatch):
    """The owner of a claim that was taken over only stood still: it has its folder locked, and goes on."""
    monkeypatch.setattr(job_folder, "_BEAT", 0.5)
    monkeypatch.setattr(job_folder, "_PATIENCE", 0)
    monkeypatch.setattr(job_folder, "_lives_here", lambda owner: None)
    first, *rest = jobs_of.study(tmp_path, count=2, pause=0)
    lock, tried = FileLock(tmp_path / ".lock"), []

    def alone(device: str | None) -> None:
        tried.append(len(list(tmp_path.glob("jobs/*/done.json"))))
        if len(tried) == 2:  # what the first try had left
            assert sorted(path.name for path in claim.parent.glob("claim-*")) == ["claim-1", "claim-2"]
            lock.release()
        with used_alone(tmp_path, tmp_path / ".lock"):
            first.run(device)

    jobs = planned(tmp_path, [Job(first.name, alone, (), first.products, first.about), *rest])
    claim = tmp_path / "jobs" / first.name / "claim-1"
    claim.write_text("{}")
    with lock:
        work(tmp_path, jobs)
    assert tried == [0, 1]  # the other job was done meanwhile
    assert (tmp_path / "report.txt").exists() and not list(tmp_path.glob("jobs/*/failed.json"))


def test_time_in_which_nobody_looked_is_no_sign_of_death(tmp_path, monkeypatch):
    """A disk that hangs stops the hearts of all, and the eyes."""
    clock = [1000.0]
    monkeypatch.setattr(job_folder, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = job_folder._Watch()
    (tmp_path / "claim-1").write_text("{}")
    assert watch.claim(tmp_path) is None
    clock[0] += 500
    for _ in range(12):
        assert watch.claim(tmp_path) is None
        clock[0] += 10
    assert watch.claim(tmp_path) is not None


def test_names_are_unique_and_a_study_has_jobs(tmp_path, jobs_of):
    with pytest.raises(UsageError, match="share a name: job0"):
        JobFolder(tmp_path).write_plan(
            [*jobs_of.study(tmp_path), *jobs_of.study(tmp_path)][:12] + jobs_of.study(tmp_path)[:1]
        )
    with pytest.raises(UsageError, match="is no study with jobs"):
        JobFolder(tmp_path).states()


def test_a_claim_being_written_or_damaged_is_waited_for(tmp_path, monkeypatch):
    watch = job_folder._Watch()
    (tmp_path / "claim-1").write_text("")
    monkeypatch.setattr(job_folder, "_PATIENCE", 0.3)
    assert watch.claim(tmp_path) is None
    (tmp_path / "claim-1").write_text("[1]")
    assert watch.claim(tmp_path) is None
    time.sleep(0.4)
    claim = watch.claim(tmp_path)
    assert claim is not None and claim.path.name == "claim-2"
    assert job_folder._Watch().claim(tmp_path) is None  # ours, and we live
    claim.release()
    assert not list(tmp_path.iterdir())
