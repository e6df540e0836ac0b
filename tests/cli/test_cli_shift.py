"""``nomadiff shift`` on the command line: one line for every mistake, a plan without work, a model in the end."""

from types import SimpleNamespace

import pytest

from nomadiff.cli import main
from nomadiff.cli.next_steps import after_shift
from nomadiff.models.model import Model
from nomadiff.tables import Table

SMALL = ["--preset", "digits", "--budget", "256", "--snapshot-every", "128", "--device", "cpu"]
QUICK = ["--synthetic-count", "48", "--budget", "128", "--lr", "5e-4", "--count", "48", "--device", "cpu"]
TARGET = ["--target", "0,1,2,3,4=0.9"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("shift") / "base"
    assert main(["train", "--real", "digits:pool", "--method", "dm", *SMALL, "--out", str(out)]) == 0
    return out


def test_a_model_comes_out(base, tmp_path, capsys):
    out = tmp_path / "shifted"
    weights = ["--weight", "-1", "--weight", "0.5"]
    reference = ["--reference", "digits:reference", "--detector", "digits"]
    assert main(["shift", str(base), "--out", str(out), *TARGET, *QUICK, *weights, *reference]) == 0
    printed = capsys.readouterr().out
    assert "share of 0,1,2,3,4 (target 90.0%)" in printed
    again = f"nomadiff shift --config {out / 'command.toml'} --out {out} --weight 1"  # the target was not reached
    assert printed.rstrip().splitlines()[-1] == f"next:    {again}"
    assert Model.load(out, device="cpu").guidance.weight == 0.5
    assert main(["sample", str(out), "--count", "4", "--out", str(tmp_path / "s.zip"), "--device", "cpu"]) == 0
    page = (out / "report.html").read_text()
    assert "Did the composition follow the target?" in page and "target, %" in page and page.count("<svg") >= 2


@pytest.mark.parametrize(("best", "then"), [(2.0, ["1", "2", "4"]), (0.5, ["0.55", "0.6"])])
def test_a_target_that_was_just_missed_takes_a_little_more(tmp_path, best, then):
    """It proposed twice of every weight, also where the best of them had reached the target until fresh noise came."""
    rows = [{"weight": weight, "noise": "sweep"} for weight in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    done = SimpleNamespace(is_reached=False, weight=best, table=Table(rows=rows))
    words = after_shift(done, tmp_path)
    assert words[words.index("--weight") + 1 :] == then


def test_a_plan_starts_nothing(base, tmp_path, capsys):
    out = tmp_path / "plan"
    assert main(["shift", str(base), "--out", str(out), *TARGET, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1,000 in complementary composition" in printed and "9 weights and the base" in printed
    assert "shares only" in printed and not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "target"),
        (["--target", "3"], "such as 0,1,2=0.6"),
        (["--target", "x=0.3"], "no class 'x'; there are 0, 1"),
        (["--target", "3=1.3"], "between 0 and 1"),
        (["--target", "3=0.6", "--target", "4=0.6"], "leave nothing"),
        ([*TARGET, "--classifier", "pixels"], "no classes"),
        ([*TARGET, "--classifier", "nowhere.pt"], "no such detector file"),
        ([*TARGET, "--weight", "-1"], "one at least above 0"),
        ([*TARGET, "--reference", "digits:close"], "--allow-synthetic-as-real"),
        ([*TARGET, "--group-by", "patient"], "--group-by is about scores"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(base, tmp_path, capsys, options, said):
    out = tmp_path / "out"
    assert main(["shift", str(base), "--out", str(out), *options, "--device", "cpu"]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not out.exists()
