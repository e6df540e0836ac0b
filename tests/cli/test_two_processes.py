"""Two real processes under torchrun (gloo): the same command line that several GPUs are used with."""

import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.images import read_images
from nomadiff.tables import read_table
from nomadiff.training.run_folder import RunFolder

SMALL = ["--preset", "digits", "--budget", "512", "--batch", "64", "--warmup", "64", "--snapshot-every", "256"]


@pytest.fixture(scope="module")
def run(two_processes, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    sources = ["--real", "digits:pool", "--synthetic", "close=digits:close", "--real-fraction", "0.5"]
    two_processes("train", *sources, *SMALL, "--device", "cpu", "--out", str(out))
    return out


def test_two_processes_train_one_model(run):
    folder = RunFolder(run)
    assert folder.snapshots() == [256, 512]
    log = folder.read_log()
    assert [record["images_seen"] for record in log] == [256, 512]
    # the log counts the images of both processes: half real, half synthetic
    assert log[0]["loss"] == pytest.approx((log[0]["loss_real"] + log[0]["loss_close"]) / 2, rel=1e-5)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(two_processes, run, tmp_path):
    """Each process draws its share; bits may differ by float32 rounding, since batches have another size."""
    draw = ["sample", str(run), "--count", "37", "--steps", "4", "--seed", "5", "--device", "cpu"]
    two_processes(*draw, "--batch-size", "8", "--out", str(tmp_path / "two.zip"))
    assert main([*draw, "--out", str(tmp_path / "one.zip")]) == 0
    two, one = (read_images(tmp_path / f"{name}.zip").images.to(torch.int16) for name in ("two", "one"))
    assert two.shape == one.shape == (37, 1, 8, 8)
    assert (two - one).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ambient", "weighted", "filtered"])
def test_two_processes_find_out_together_how_to_use_synthetic_images(two_processes, method, tmp_path):
    """Both judge, or train the pilots, and come to one result; the classifiers see no more images than of one."""
    sources = ["--real", "digits:pool", "--real-subset", "first:40", "--synthetic", "style=digits:style"]
    small = ["--synthetic-subset", "first:60", "--preset", "digits", "--budget", "768", "--batch", "64"]
    command = ["train", *sources, *small, "--warmup", "64", "--method", method, "--device", "cpu", "--out"]
    said = two_processes(*command, str(tmp_path / "two"))
    assert said.count("model: ") == 1
    assert main([*command, str(tmp_path / "one")]) == 0
    name = {"ambient": "floors", "weighted": "shares", "filtered": "kept"}[method]
    tables = [read_table(tmp_path / each / "preparation" / f"{name}.json") for each in ("two", "one")]
    assert [len(table.rows) for table in tables] == [4 if method == "weighted" else 60] * 2
    ends = [RunFolder(tmp_path / each).read_log()[-1]["images_seen"] for each in ("two", "one")]
    assert ends[0] == ends[1] < 768
    before = (tmp_path / "two" / "model.safetensors").stat().st_mtime_ns
    two_processes(*command, str(tmp_path / "two"))
    assert (tmp_path / "two" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_distil_together(two_processes, run, tmp_path):
    command = ["improve", str(run), "--weight", "1", "--budget", "256", "--snapshots", "1", "--synthetic-count", "64"]
    command += ["--device", "cpu"]
    two_processes(*command, "--distil", "--out", str(tmp_path / "two"))
    assert main([*command, "--distil", "--out", str(tmp_path / "one")]) == 0
    files = [sorted(path.name for path in (tmp_path / each / "distilled").iterdir()) for each in ("two", "one")]
    assert files[0] == files[1] == ["model.safetensors", "sources.json"]
