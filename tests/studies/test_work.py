"""``work`` and ``status``: other processes drain a study that ``compare`` has planned, and its table is the same."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nomadiff.cli import main
from nomadiff.cli.options import parse_duration
from nomadiff.data.image_source import ImageSource
from nomadiff.data.mix_spec import MixSpec
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.studies.launch import Worker, launch_workers
from nomadiff.studies.work import study_status, work_study
from nomadiff.tables import read_table
from nomadiff.workflows.compare import Comparison, begin_comparison, comparison_jobs, jobs_from

COMPARE = (
    "compare --real digits:pool --synthetic close=digits:close --real-subset first:30 --real-fraction 0.3 --seeds 0 "
    "--reference digits:reference --detector digits --preset digits --budget 512 --batch 64 --warmup 64 --count 40 "
    "--device cpu"
)


def command(words: str, out: Path) -> list[str]:
    return [*shlex.split(words), "--out", str(out)]


def worker(study: Path, where: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "nomadiff", "work", str(study), "--jobs", "1"]
    return subprocess.Popen(
        arguments, cwd=where, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_workers_that_are_killed_give_the_table_of_one_call(tmp_path, monkeypatch, capsys):
    assert main([*command(COMPARE, tmp_path / "one"), "--workers", "1"]) == 0
    assert main([*command(COMPARE, tmp_path / "many"), "--workers", "0"]) == 0
    assert f"next:    nomadiff work {tmp_path / 'many'}" in capsys.readouterr().out
    assert {row["state"] for row in study_status(tmp_path / "many")} == {"waiting"}
    dead = worker(tmp_path / "many", tmp_path)
    while not list((tmp_path / "many").glob("runs/*/log.jsonl")):
        assert dead.poll() is None
        time.sleep(0.05)
    assert "running" in {row["state"] for row in study_status(tmp_path / "many")}
    dead.kill()
    dead.wait()
    assert main(["status", str(tmp_path / "many")]) == 0
    assert "done, 0 running, " in capsys.readouterr().out  # this machine sees that the process is gone
    other = worker(tmp_path / "many", tmp_path)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["work", str(tmp_path / "many"), "--jobs", "1"]) == 0
    out, _ = other.communicate(timeout=300)
    assert other.returncode == 0
    for said in (out, capsys.readouterr().out):
        assert "done:" in said and f"next:    nomadiff verdict {tmp_path / 'many'}" in said
    one, many = (read_table(tmp_path / name / "metrics.json").rows for name in ("one", "many"))
    assert one == many and len(one) == 3
    for name in ("dm-seed0", "casd-close-seed0"):
        weights = [(tmp_path / study / "runs" / name / "model.safetensors").read_bytes() for study in ("one", "many")]
        assert weights[0] == weights[1]
    assert main(["status", str(tmp_path / "many")]) == 0
    said = capsys.readouterr().out
    assert "512 of 512 images" in said and said.endswith("4 done, 0 running, 0 waiting, 0 failed\n")
    assert main(command(COMPARE, tmp_path / "many")) == 0  # the call itself finds everything done


def test_a_failed_job_is_shown_and_tried_again(tmp_path, capsys, monkeypatch):
    assert main([*command(COMPARE, tmp_path), "--workers", "0"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("nomadiff.workflows.arms.Arm.run", lambda arm: 1 / 0)
        assert main(["work", str(tmp_path), "--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert "3 of 4 jobs failed; dm-seed0: ZeroDivisionError: division by zero" in said
    assert f"nomadiff work {tmp_path} --retry-failed tries failed jobs again" in said
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "dm-seed0          failed" in said and "0 done, 0 running, 1 waiting, 3 failed" in said
    assert "1 / 0" in json.loads((tmp_path / "jobs" / "dm-seed0" / "failed.json").read_text())["traceback"]
    assert main(["work", str(tmp_path), "--jobs", "1"]) == 1  # as before, and nothing runs
    assert main(["work", str(tmp_path), "--jobs", "1", "--retry-failed", "--stop-after", "0.1s"]) == 128 + 15
    assert {row["state"] for row in study_status(tmp_path)} == {"waiting"}


def test_a_study_of_objects_is_worked_on_by_its_own_call(tmp_path):
    with pytest.raises(UsageError, match="no jobs to work on"):
        work_study(tmp_path)
    with pytest.raises(UsageError, match="is no study with jobs"):
        study_status(tmp_path)
    real = ImageSource.open("digits:pool", name="real", synthetic=False).first(30)
    mix = MixSpec(real=real, synthetic=("digits:close",))
    study = Comparison(mix=mix, reference="digits:reference", out=tmp_path, preset="digits", detector="digits")
    begin_comparison(study)
    with pytest.raises(UsageError, match="by its own call alone"):
        work_study(tmp_path)


def test_settings_make_the_same_jobs_and_damaged_ones_are_named(tmp_path):
    mix = MixSpec(real="digits:pool", synthetic=("a=digits:close", "digits:style"), source_weights=(1.0, 2.0))
    changes = {"budget": 512, "ema_stds": (0.05, 0.1)}
    study = Comparison(mix=mix, reference="digits:reference", out=tmp_path, preset="edm2-tiny", changes=changes)
    settings = json.loads(json.dumps(study.to_dict()))
    settings.pop("study")
    told = [(job.name, job.about, job.after, job.products) for job in comparison_jobs(study)]
    assert told == [(job.name, job.about, job.after, job.products) for job in jobs_from(settings, tmp_path)]
    for wrong in ({}, {**settings, "nothing": 1}, {**settings, "mix": 3}, {**settings, "seeds": 4}):
        with pytest.raises(DataError, match="not the settings of a comparison"):
            jobs_from(wrong, tmp_path)
    begin = tmp_path / "jobs" / "study.json"
    begin.parent.mkdir()
    begin.write_text(json.dumps({"study": "os.system", "folder": "/"}))
    with pytest.raises(DataError, match="this version knows"):
        work_study(tmp_path)


def started_by(process: object) -> int:
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(child)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for a child process in /proc")
def test_a_worker_of_a_scheduler_is_interrupted_and_queued_again(tmp_path, monkeypatch):
    """submitit's local executor in place of SLURM's; its signal is the one it sends when the time is over."""
    submitit = pytest.importorskip("submitit")
    long = COMPARE.replace("--budget 512", "--budget 5120 --snapshot-every 5120 --log-every 128")
    monkeypatch.chdir(tmp_path)
    assert main([*command(long, Path("study")), "--method", "dm", "--workers", "0"]) == 0
    jobs = launch_workers("study", "local", 1, options=("timeout_min=10",), words=("--jobs", "1"))
    while not list(tmp_path.glob("study/runs/*/log.jsonl")):
        assert not jobs[0].done()
        time.sleep(0.05)
    task, worker = started_by(jobs[0].job_id), started_by(started_by(jobs[0].job_id))
    for process in (worker, task):  # the job's own process, as its controller does when the time is over; SLURM all
        os.kill(process, signal.SIGUSR2)
    jobs[0].result()
    assert [row["state"] for row in study_status("study")] == ["done", "done"]
    log = (tmp_path / "study" / "runs" / "dm-seed0" / "log.jsonl").read_text().splitlines()
    seen = [json.loads(line)["images_seen"] for line in log]
    assert seen == sorted(set(seen)) and seen[-1] == 5120
    assert isinstance(jobs[0], submitit.LocalJob)
    assert jobs[0].submission()._timeout_countdown > 1000  # a study may take longer than three times the limit
    assert "state saved in" in jobs[0].stderr()


def test_a_job_that_must_give_way_passes_it_on_to_its_worker(tmp_path, monkeypatch):
    """SIGTERM, as ``scontrol requeue`` and preemption send: to the job's own process alone where SLURM has cgroups."""
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/bash\ntrap 'echo saved > told; exit 143' TERM\ntouch ready\nwhile sleep 0.05; do :; done\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    worker = Worker(["work", "study"], str(tmp_path))

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            worker._process.send_signal(number)  # a warning of SLURM's that is not meant for it
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        threading.Thread(target=stop).start()
        with pytest.raises(NomadiffError, match="work study: exit code 143"):
            worker()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "told").read_text() == "saved\n"
    pytest.importorskip("submitit")
    assert worker.checkpoint().function.words == worker.words  # its end has been seen: nothing to wait for


def test_slurm_is_told_to_queue_a_job_again(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, does in (("srun", "exit 1"), ("sbatch", "echo Submitted batch job 7")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    study = tmp_path / "study"
    assert main([*command(COMPARE, study), "--workers", "0"]) == 0
    launch = ["--launch", "slurm", "--launch-option", "partition=gpu", "--launch-option", "signal_delay_s=120"]
    assert main(["work", str(study), *launch]) == 0
    said = (study / "jobs" / "launched" / "7_submission.sh").read_text().splitlines()
    assert {"--requeue", "--open-mode=append", "--partition=gpu", "--signal=USR2@120"} <= {
        line.removeprefix("#SBATCH ") for line in said
    }


@pytest.mark.parametrize(("given", "seconds"), [("20d", 1728000), ("90m", 5400), ("0.5s", 0.5)])
def test_launched_workers_are_given_the_time_that_was_asked_for(tmp_path, monkeypatch, given, seconds):
    words = []
    monkeypatch.setattr(
        "nomadiff.studies.launch.launch_workers", lambda *_, **options: words.extend(options["words"]) or []
    )
    assert main(["work", str(tmp_path), "--launch", "local", "--stop-after", given]) == 0
    assert words[0] == "--stop-after" and parse_duration(words[1]) == seconds


@pytest.mark.parametrize("words", [["--workers", "8"], ["--launch-option", "partition=gpu"]])
def test_options_of_a_launch_without_one_are_refused(tmp_path, capsys, words):
    assert main([*command(COMPARE, tmp_path), "--workers", "0"]) == 0
    assert main(["work", str(tmp_path), *words]) == 2
    assert "are for --launch" in capsys.readouterr().err


def test_launch_options_are_checked(tmp_path):
    pytest.importorskip("submitit")
    assert main([*command(COMPARE, tmp_path), "--workers", "0"]) == 0
    with pytest.raises(UsageError, match="write name=value"):
        launch_workers(tmp_path, "local", 1, options=("timeout_min",))
    with pytest.raises(UsageError, match="--launch local: .*partitoin"):
        launch_workers(tmp_path, "local", 1, options=("partitoin=gpu",))
    with pytest.raises(UsageError, match="no such folder"):
        launch_workers(tmp_path / "other", "local", 1)
