"""Two real processes under torchrun (gloo): the same command line that several GPUs are used with."""

import os
import subprocess
import sys

import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.images import read_images
from nomadiff.training.run_folder import RunFolder

SMALL = ["--preset", "digits", "--budget", "512", "--batch", "64", "--warmup", "64", "--snapshot-every", "256"]


def two_processes(*arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "nomadiff", *arguments, "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    sources = ["--real", "digits:pool", "--synthetic", "close=digits:close", "--real-fraction", "0.5"]
    two_processes("train", *sources, *SMALL, "--out", str(out))
    return out


def test_two_processes_train_one_model(run):
    folder = RunFolder(run)
    assert folder.snapshots() == [256, 512]
    log = folder.read_log()
    assert [record["images_seen"] for record in log] == [256, 512]
    # the log counts the images of both processes: half real, half synthetic
    assert log[0]["loss"] == pytest.approx((log[0]["loss_real"] + log[0]["loss_close"]) / 2, rel=1e-5)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(run, tmp_path):
    """Each process draws its share; bits may differ by float32 rounding, since batches have another size."""
    draw = ["sample", str(run), "--count", "37", "--steps", "4", "--seed", "5"]
    two_processes(*draw, "--batch-size", "8", "--out", str(tmp_path / "two.zip"))
    assert main([*draw, "--device", "cpu", "--out", str(tmp_path / "one.zip")]) == 0
    two, one = (read_images(tmp_path / f"{name}.zip").images.to(torch.int16) for name in ("two", "one"))
    assert two.shape == one.shape == (37, 1, 8, 8)
    assert (two - one).abs().max() <= 1
