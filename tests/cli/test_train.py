"""``nomadiff train`` tells what it does: while it runs, when it goes on, and when there is nothing to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from nomadiff.cli import main
from nomadiff.training.run_folder import RunFolder, images_seen_by, load_tensors


def words(out, *more, budget=128):
    return [
        *(
            "train",
            "--real",
            "digits:pool",
            "--real-subset",
            "first:100",
            "--preset",
            "digits",
            "--budget",
            str(budget),
        ),
        *("--batch", "32", "--warmup", "0", "--snapshot-every", "64", "--log-every", "32", "--device", "cpu"),
        *("--grid", "0", "--out", str(out), *more),
    ]


def test_a_finished_run_says_so_and_a_longer_one_where_it_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(out, "--validation", "0.2")) == 0
    first = capsys.readouterr()
    assert "already finished" not in first.out and "continuing" not in first.err
    assert f"report:  {out / 'report.html'}" in first.out and f"best:    {out / 'best.safetensors'}" in first.out
    assert main(words(out, "--validation", "0.2")) == 0
    assert "\nalready finished at 128 images: nothing to do\nmodel:  " in capsys.readouterr().out
    assert main(words(out, "--validation", "0.2", budget=256)) == 0
    told = capsys.readouterr()
    assert "train dm: continuing from 128 of 256 images" in told.err and "already finished" not in told.out
    assert main(words(out, "--validation", "0.2", budget=64)) == 2
    assert (
        "has seen 256 images, more than the budget of 64: take its snapshot (--snapshot 64)" in capsys.readouterr().err
    )
    assert main(["info", str(out)]) == 0
    told = capsys.readouterr().out
    assert (
        "trained:     256 of 256 images\n" in told and "validation:  Held-out loss" in told and "best:        " in told
    )
    repeated = (out / "command.toml").read_text()
    assert 'validation = "0.2"' in repeated


def test_a_guided_model_that_is_finished_says_so_too(tmp_path, capsys):
    command = words(tmp_path / "run", "--method", "sims")
    assert main(command) == 0
    assert "already finished" not in capsys.readouterr().out
    assert main(command) == 0
    assert "already finished at" in capsys.readouterr().out


def test_the_plan_counts_what_is_set_apart(tmp_path, capsys):
    assert main(words(tmp_path / "run", "--validation", "0.2", "--dry-run")) == 0
    assert re.search(r"validation: +20 real images that are not trained on", capsys.readouterr().out)
    assert main(words(tmp_path / "run", "--early-stop", "2")) == 2
    assert "pass --validation" in capsys.readouterr().err
    assert main(words(tmp_path / "run", "--validation", str(tmp_path / "none"))) == 1


def test_a_budget_below_a_batch_is_told(tmp_path, capsys):
    assert main(words(tmp_path / "run", budget=5)) == 0
    assert "the budget of 5 images becomes 32: a step takes 32; pass a smaller --batch" in capsys.readouterr().err
    assert main(words(tmp_path / "other", budget=95)) == 0  # 96: as good as what was asked
    assert "becomes" not in capsys.readouterr().err


@pytest.mark.slow
def test_after_sigterm_info_says_what_the_state_says(tmp_path, capsys):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "nomadiff", *words(out, budget=10_000_000)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder, deadline = RunFolder(out), time.monotonic() + 120
    while not folder.snapshots() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    seen = load_tensors(folder.state_path)[1]["images_seen"]
    assert f"stopped at {seen:,} of 10,000,000 images" in errors
    assert main(["info", str(out)]) == 0
    assert f"trained:     {seen:,} of 10,000,000 images (unfinished)\n" in capsys.readouterr().out
    assert images_seen_by(folder.state_path) == folder.goes_on_from() == seen
