"""``--gpus-per-job``: a worker starts torchrun for a job, and it is as if that had been started by hand."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from standing_pair import StandingPair

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.mix_spec import MixSpec
from nomadiff.errors import Interrupted, UsageError
from nomadiff.job_folder import Job
from nomadiff.stop_signals import sigterm_as_interrupt
from nomadiff.studies.work import study_status
from nomadiff.tables import read_table
from nomadiff.workflows import workers
from nomadiff.workflows.compare import Comparison, begin_comparison, compare, comparison_jobs
from nomadiff.workflows.workers import work_on

IMAGES = "--real digits:pool --synthetic close=digits:close --real-subset first:30 --real-fraction 0.3 "
TRAINING = "--preset digits --budget 512 --batch 64 --warmup 64 --snapshot-every 128 --device cpu "
COMPARE = f"compare {IMAGES} {TRAINING} --seeds 0 --reference digits:reference --detector digits --count 40 "
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def worker(study: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nomadiff", "work", str(study), "--jobs", "1"]
    return subprocess.Popen(command, env=ALONE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> set[int]:
    """All processes that descend from one."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found |= {int(child) for child in task.read_text().split()}
    return found.union(*map(children, found)) if found else found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def images(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".png")}


@pytest.mark.slow
def test_a_job_of_two_processes_is_torchrun_by_hand(
    two_processes: StandingPair, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert main([*shlex.split(COMPARE), "--method", "casd", "--out", str(out), "--gpus-per-job", "2"]) == 0
    said = capfd.readouterr()
    assert "report:" in said.out and "torch" not in said.err, said.err
    assert {row["state"] for row in study_status(out)} == {"done"}
    train = f"train {IMAGES} {TRAINING} --method casd --out {tmp_path / 'run'}"
    two_processes(*shlex.split(train))
    two_processes(*shlex.split(f"sample {tmp_path / 'run'} --count 40 --device cpu --out {tmp_path / 's.zip'}"))
    made = out / "runs" / "casd-close-seed0"
    hand, ours = (load_file(path / "model.safetensors") for path in (tmp_path / "run", made))
    assert hand.keys() == ours.keys() and all((hand[name] == ours[name]).all() for name in hand)
    assert images(made / "samples.zip") == images(tmp_path / "s.zip") and len(images(tmp_path / "s.zip")) == 40
    assert main([*shlex.split(train.replace("/run", "/one"))]) == 0  # one process draws other noise for its larger part
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert any((one[name] != ours[name]).any() for name in one)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
def test_a_killed_worker_takes_its_processes_along_and_another_goes_on(tmp_path: Path) -> None:
    long = COMPARE.replace("--budget 512", "--budget 2560").replace("-every 128", "-every 2560 --log-every 128")
    words = shlex.split(f"{long} --method dm --gpus-per-job 2")
    one, many = tmp_path / "one", tmp_path / "many"
    for study in (one, many):
        assert main([*words, "--out", str(study), "--workers", "0"]) == 0
    work = ["work", "--jobs", "1"]
    assert main([*work, str(one)]) == 0
    first = worker(many)
    log = many / "runs" / "dm-seed0" / "log.jsonl"
    while not log.exists():
        assert first.poll() is None
        time.sleep(0.05)
    claim = json.loads((many / "jobs" / "dm-seed0" / "claim-1").read_text())
    assert claim["pid"] == first.pid  # the worker keeps it, not what it started
    below = children(first.pid)
    assert len(below) >= 3  # torchrun and two processes
    first.kill()
    first.wait()
    until = time.monotonic() + 5
    while any(map(lives, below)):
        assert time.monotonic() < until, "processes outlive their worker"
        time.sleep(0.05)
    log.unlink()
    second = worker(many)
    while not log.exists():
        assert second.poll() is None
        time.sleep(0.05)
    assert not list(log.parent.glob("state/*"))
    for pid in (second.pid, *children(second.pid)):  # SLURM may tell all processes of a job; then the worker tells them
        os.kill(pid, signal.SIGTERM)
    _, told = second.communicate(timeout=60)
    assert second.returncode == 128 + signal.SIGTERM and "states saved" in told
    assert "Traceback" not in told and not list(many.glob("jobs/*/claim-*"))
    assert list(log.parent.glob("state/*"))
    assert {row["state"] for row in study_status(many)} == {"waiting"}
    assert main([*work, str(many)]) == 0
    names = ("runs/dm-seed0/model.safetensors", "runs/dm-seed0/samples.zip", "metrics.csv")
    assert [(one / name).read_bytes() for name in names] == [(many / name).read_bytes() for name in names]


@pytest.mark.slow
def test_what_fails_in_one_of_them_is_told_in_a_line(tmp_path: Path) -> None:
    words = [*shlex.split(COMPARE), "--method", "dm", "--out", str(tmp_path)]
    assert main([*words, "--workers", "0"]) == 0
    (tmp_path / "runs").write_text("in the way")
    assert main(["work", str(tmp_path), "--jobs", "1", "--gpus-per-job", "2"]) == 1
    (failed,) = [row for row in study_status(tmp_path) if row["state"] == "failed"]
    assert failed["job"] == "dm-seed0" and "runs" in failed["error"] and "irectory" in failed["error"]
    assert "together.py" in json.loads((tmp_path / "jobs" / "dm-seed0" / "failed.json").read_text())["traceback"]


def settled(tmp_path: Path, **changes: object) -> Comparison:
    mix = MixSpec(real="digits:pool", synthetic=("digits:close",), real_subset="first:30")
    return Comparison(
        mix=mix, reference="digits:reference", out=tmp_path, preset="digits", detector="digits", **changes
    )


def test_wrong_numbers_are_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        compare(settled(tmp_path / "a", gpus_per_job=0))
    with pytest.raises(UsageError, match="batch 64 does not divide among 3 processes"):
        begin_comparison(settled(tmp_path / "b", gpus_per_job=3, changes={"batch": 64}))
    real = ImageSource.open("digits:pool", name="real", synthetic=False).first(30)
    objects = settled(tmp_path / "c", gpus_per_job=2, device="cpu")
    with pytest.raises(UsageError, match="by its own call alone"):
        compare(Comparison(**{**vars(objects), "mix": MixSpec(real=real, synthetic=("digits:close",))}))


@pytest.mark.parametrize(
    ("asked", "groups"),
    [((), ["cuda:0,cuda:1", "cuda:2,cuda:3"]), (("cuda:3", "cuda:1"), ["cuda:3,cuda:1"])],
)
def test_gpus_are_dealt_out_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple, groups: list
) -> None:
    study = settled(tmp_path)
    begin_comparison(study)
    seen = {}
    monkeypatch.setattr(workers, "_kind_of", lambda device: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(workers, "work", lambda study, jobs, **options: seen.update(options, jobs=jobs))
    work_on(tmp_path, comparison_jobs(study), devices=asked, gpus_per_job=2)
    assert seen["devices"] == groups and seen["processes"] == len(groups)
    with pytest.raises(UsageError, match="do not divide among jobs of 3"):
        work_on(tmp_path, comparison_jobs(study), devices=asked, gpus_per_job=3)
    given: list[str] = []
    monkeypatch.setattr("nomadiff.workflows.compare._report", lambda comparison, device: given.append(device))
    workers._run_together(tmp_path, comparison_jobs(study)[-1], 2, groups[0])
    assert given == [groups[0].split(",")[0]]  # what is no work of several processes has the first


def test_the_number_is_part_of_a_study_that_others_work_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "nomadiff.workflows.workers.work_on", lambda *args, gpus_per_job, **options: asked.append(gpus_per_job)
    )
    assert main([*shlex.split(COMPARE), "--out", str(tmp_path), "--gpus-per-job", "2", "--workers", "0"]) == 0
    assert main(["work", str(tmp_path)]) == 0
    assert main(["work", str(tmp_path), "--gpus-per-job", "4"]) == 0
    assert asked == [2, 4]


def test_methods_of_one_process_keep_to_one(tmp_path: Path) -> None:
    jobs = comparison_jobs(settled(tmp_path, methods=("dm", "sims", "discriminator-guidance"), seeds=(0,)))
    shared = {job.name: job.shared for job in jobs}
    assert shared.pop("discriminator-guidance-seed0") is False and shared.pop("report") is False
    assert set(shared.values()) == {True}


@pytest.mark.slow
def test_a_loop_of_two_processes_is_that_of_one_with_as_large_parts(tmp_path: Path) -> None:
    """But for the order in which gradients are added up."""
    words = shlex.split(
        "loop --real digits:pool --reference digits:reference --detector digits --algorithm casd sims --generations 2 "
        "--seeds 0 --real-count 64 --synthetic-count 24 --count 16 --preset digits --budget 256 "
        "--batch 64 --warmup 64 --device cpu"
    )
    assert main([*words, "--out", str(tmp_path / "one"), "--microbatch", "32", "--workers", "1"]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "--gpus-per-job", "2"]) == 0
    for name, files in (("casd", ("base", "labelled")), ("sims", ("base", "auxiliary"))):
        one, two = (tmp_path / study / "loops" / f"{name}-seed0" for study in ("one", "two"))
        for file in files:
            place = Path("generation-0001", "model", file, "model.safetensors")
            for key, value in load_file(one / place).items():
                torch.testing.assert_close(
                    value, load_file(two / place)[key], rtol=1e-3, atol=1e-4, msg=f"{place} {key}"
                )
        made = [np.load(folder / "generation-0002" / "synthetic.npy").astype(int) for folder in (one, two)]
        assert np.mean(np.abs(made[0] - made[1]) > 2) < 0.01
        assert (two / "generation-0002" / "manifest.json").exists() and not list(two.glob("**/own"))
    rows = [read_table(tmp_path / study / "metrics.json").rows for study in ("one", "two")]
    assert [row["generation"] for row in rows[0]] == [row["generation"] for row in rows[1]] == [1, 2, 1, 2]


def test_a_stop_while_torchrun_is_started_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held back meanwhile, it came before anybody listened: torchrun trained on, and the job was given to another."""
    told: list[object] = []

    class Started:
        def __init__(self, *words: object, **options: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def send_signal(self, number: int) -> None:
            told.append(number)

        def wait(self) -> int:
            told.append("waited")
            return 0

    monkeypatch.setattr(workers.subprocess, "Popen", Started)
    job = Job("job", lambda device: None, shared=True)
    with sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt) as stopped:
        workers._run_together(tmp_path, job, 2, None)
    assert stopped.value.args == (signal.SIGTERM,) and told == [signal.SIGINT, "waited"]


def test_studies_are_not_started_by_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_comparison(settled(tmp_path, device="cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="start it without torchrun, with --gpus-per-job N"):
        work_on(tmp_path, [])


def test_a_recipe_passes_the_number_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def working(*args: object, gpus_per_job: int, **options: object) -> None:
        asked.append(gpus_per_job)
        raise Interrupted("enough", signal.SIGTERM)

    for module in ("nomadiff.reproduce.study", "nomadiff.workflows.workers"):
        monkeypatch.setattr(f"{module}.work_on", working)
    words = ["reproduce", "casd-table-2", "--scale", "smoke", "--gpus-per-job", "2", "--out", str(tmp_path)]
    assert main(words) == main(["work", str(tmp_path)]) == 128 + signal.SIGTERM
    assert asked == [2, 2]
    assert main(["reproduce", "sims-figure-5", "--scale", "smoke", "--gpus-per-job", "2"]) == 2


@pytest.mark.slow
def test_the_copy_of_an_improvement_is_trained_by_two(two_processes: StandingPair, tmp_path: Path) -> None:
    """Of its decoder alone: what is frozen has no gradient to ask for."""
    assert (
        main(shlex.split(f"train {IMAGES.split('--synthetic')[0]} {TRAINING} --method dm --out {tmp_path / 'run'}"))
        == 0
    )
    words = f"improve {tmp_path / 'run'} --synthetic-count 64 --budget 256 --snapshots 2 --weight 1 --device cpu"
    words += " --train-part decoder"
    two_processes(*shlex.split(f"{words} --out {tmp_path / 'hand'}"))
    assert main(shlex.split(f"{words} --out {tmp_path / 'study'} --workers 0")) == 0
    assert main(["work", str(tmp_path / "study"), "--jobs", "1", "--gpus-per-job", "2"]) == 0
    assert {row["state"] for row in study_status(tmp_path / "study")} == {"done"}
    hand, ours = (load_file(tmp_path / name / "auxiliary" / "model.safetensors") for name in ("hand", "study"))
    assert hand.keys() == ours.keys() and all((hand[name] == ours[name]).all() for name in hand)
    assert main(shlex.split(f"sample {tmp_path / 'study'} --count 2 --device cpu --out {tmp_path / 's'}")) == 0
