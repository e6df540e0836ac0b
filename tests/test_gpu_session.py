"""The script for a short GPU session, rehearsed on a CPU."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_session.py"


def loaded():
    spec = importlib.util.spec_from_file_location("gpu_session", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_session"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_job_runs_once_and_the_session_continues(tmp_path, monkeypatch, capsys):
    script = loaded()
    session = script.Session(torch.device("cpu"), True, tmp_path, None, None)
    names = [job.name for job in script.jobs(session)]
    assert len(set(names)) == len(names)
    assert {"noise", "sample cifar10 bf16 eager", "smoke imagenet64-adm bf16", "smoke cifar10-ncsnpp fp32"} <= set(
        names
    )
    kept = {name for name in names if "torchrun" not in name and name.split()[0] != "smoke"}
    kept |= {"smoke compact32 bf16", "smoke imagenet64-edm2-xs fp32", "smoke guidance"}
    chosen = script.jobs
    monkeypatch.setattr(script, "jobs", lambda session: [job for job in chosen(session) if job.name in kept])
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", str(tmp_path), "--toy", "--device", "cpu", "--minutes", "20"])
    for _ in range(2):  # the second call has nothing left to do
        script.main()
        records = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
        assert [record["job"] for record in records] == [name for name in names if name in kept]
    assert [record for record in records if "error" in record or record.get("ok") is False] == []
    assert (tmp_path / "report.md").read_text().count("\n| ") == len(kept) + 1


def test_a_job_that_fails_is_recorded_and_the_next_one_runs(tmp_path, monkeypatch):
    script = loaded()

    def broken():
        raise RuntimeError("out of memory")

    jobs = [script.Job("one", 0, broken), script.Job("two", 0, lambda: {"ok": True}), script.Job("long", 1e9, broken)]
    monkeypatch.setattr(script, "jobs", lambda session: jobs)
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", str(tmp_path), "--device", "cpu"])
    script.main()
    records = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [(record["job"], record.get("error"), record.get("ok")) for record in records] == [
        ("one", "RuntimeError: out of memory", None),
        ("two", None, True),
    ]


def test_a_checkout_of_edm_is_measured_beside_in_training_and_sampling(tmp_path):
    script = loaded()
    session = script.Session(torch.device("cpu"), True, tmp_path, None, tmp_path / "edm")
    names = [job.name for job in script.jobs(session)]
    for network in script.MEASURED[:3]:
        ours, theirs = names.index(f"sample {network} bf16 eager"), names.index(f"edm sample {network} fp16")
        assert ours < theirs and f"edm {network} fp16" in names


def test_every_guidance_is_among_the_smoke_tests(tmp_path):
    script = loaded()
    found = script.guidances(script.Session(torch.device("cpu"), True, tmp_path, None, None))
    assert found["ok"] and set(found["differences"]) >= {"shared encoder", "merged", "classifier", "discriminator"}
