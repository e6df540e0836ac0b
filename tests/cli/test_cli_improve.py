"""``nomadiff improve`` on the command line: one line for every mistake, a plan without work, a model in the end."""

from contextlib import contextmanager

import pytest

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.improve import weight_search
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model

SMALL = ["--preset", "digits", "--budget", "256", "--snapshot-every", "128", "--device", "cpu"]
QUICK = ["--synthetic-count", "48", "--budget", "128", "--snapshots", "1", "--lr", "5e-4", "--device", "cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("improve") / "base"
    assert main(["train", "--real", "digits:pool", "--method", "dm", *SMALL, "--out", str(out)]) == 0
    return out


def test_a_model_comes_out(base, tmp_path, capsys):
    out = tmp_path / "better"
    command = ["improve", str(base), "--out", str(out), *QUICK, "--weight", "0.5", "--interval", "0.1:20"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "weight 0.5 as asked; nothing was scored" in printed and f"nomadiff sample {out}" in printed
    model = Model.load(out, device="cpu")
    assert (model.guidance.weight, model.guidance.interval) == (0.5, (0.1, 20.0))
    repeated = ["improve", "--config", str(out / "command.toml"), "--out", f"{out}-again"]
    assert main(repeated) == 0
    assert Model.load(f"{out}-again", device="cpu").sha256 == model.sha256
    assert main(["sample", str(out), "--count", "4", "--out", str(tmp_path / "s.zip"), "--device", "cpu"]) == 0
    assert main([*command, "--space", "parameters"]) == 2  # an interval needs function space
    assert main(["improve", str(out), "--out", str(tmp_path / "again"), *QUICK, "--weight", "1"]) == 2


def test_a_plan_starts_nothing(base, tmp_path, capsys):
    out = tmp_path / "plan"
    assert main(["improve", str(base), "--out", str(out), "--reference", "digits:reference", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "own samples: 1,000," in printed and "32 candidates" in printed and "GPU hours" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--reference"),
        (["--weight", "heavy"], "weight"),
        (["--weight", "0"], "than 0, which is the base"),
        (["--interval", "3"], "such as 0.1:20"),
        (["--weight", "1", "--interval", "9:1"], "low < high"),
        (["--weight", "1", "--space", "time"], "function, parameters"),
        (["--weight", "1", "--train-part", "encoder"], "all, decoder"),
        (["--budget", "many"], "5Mi"),
        (["--reference", "digits:close"], "--allow-synthetic-as-real"),
        (["--weight", "1", "--train", "digits:pool"], "--train is about scores"),
        (["--weight", "1", "--group-by", "patient"], "--group-by is about scores"),
        (["--weight", "1", "--metric", "recall"], "--metric recall needs --reference"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(base, tmp_path, capsys, options, said):
    out = tmp_path / "out"
    assert main(["improve", str(base), "--out", str(out), *options, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_drawing_what_is_scored_says_how_far_it_is(base, monkeypatch):
    seen = []

    @contextmanager
    def bar(description, total, show):
        assert (description, total, show) == ("samples to score", 24, True)
        yield seen.append

    monkeypatch.setattr(weight_search, "progress_bar", bar)
    held_out = ImageSource.open("digits:reference", name="real", synthetic=False).first(40)
    weight_search.score_model(Model.load(base, device="cpu"), ReferenceSet(held_out, detector="pixels"), 24, 0)
    assert sum(seen) == 24
