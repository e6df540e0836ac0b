"""docs/own-parts.md runs as it stands; an own method is an arm like any other, in worker processes too."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial
from itertools import pairwise
from pathlib import Path

import my_parts
import pytest

import nomadiff as nd
from nomadiff.cli import main
from nomadiff.methods.registry import METHODS, method_named
from nomadiff.methods.sda import SDA
from nomadiff.workflows.compare import plan_comparison

PAGE = (Path(__file__).parents[1] / "docs" / "own-parts.md").read_text(encoding="utf-8")
SMALL = {"budget": 128, "batch": 64, "warmup": 64}


class Taken(SDA):
    """An own class under a name of the library."""


class AlsoFew(my_parts.FewSynthetic):
    """Another class of the same name."""


def comparison(out, **changes):
    values = {
        "mix": nd.MixSpec(real="digits:pool", synthetic=("style=digits:style",), real_subset="random:60"),
        "reference": "digits:reference",
        "out": out,
        "methods": ("dm", my_parts.FewSynthetic),
        "preset": partial(my_parts.Plain, width=8),
        "changes": SMALL,
        "seeds": (0,),
        "count": 40,
        "detector": my_parts.Means(),
        "workers": 1,
        "device": "cpu",
    }
    return nd.Comparison(**{**values, **changes})


def test_the_page_runs(tmp_path, monkeypatch):
    """Its Python, then its commands, in one folder."""
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, {})
    commands = re.findall(r"^nomadiff (.+)$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    assert json.loads((tmp_path / "drawn" / "manifest.json").read_text())["nfe"] == 11


def test_an_own_method_is_found_by_class_and_name():
    assert method_named(my_parts.FewSynthetic) is method_named("my_parts:FewSynthetic") is my_parts.FewSynthetic
    assert "few-synthetic" not in METHODS


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Taken, "its name 'sda' is taken"),
        ("my_parts:Plain", "it must be a subclass of nomadiff's Method"),
        ("absent_parts:Mine", "--plugin absent_parts"),
        ("cads", r"did you mean 'casd'\?"),
        (AlsoFew, "two methods are called 'few-synthetic'"),
    ],
)
def test_what_cannot_be_an_arm_is_told_before_anything_is_trained(method, told, tmp_path):
    with pytest.raises(nd.UsageError, match=told):
        nd.compare(comparison(tmp_path, methods=("dm", my_parts.FewSynthetic, method)))
    assert not (tmp_path / "runs").exists()


def test_own_parts_are_planned_as_any_other(tmp_path):
    plan = plan_comparison(comparison(tmp_path))
    assert "my_parts:Plain" in plan and "few-synthetic-style-seed0" in plan and "unknown" not in plan


def test_every_own_part_in_one_comparison_in_worker_processes(tmp_path, monkeypatch):
    """Workers are fresh processes: they import what the user imported here."""
    monkeypatch.chdir(tmp_path)
    options = (
        "--real digits:pool --real-subset random:60 --synthetic style=digits:style --reference digits:reference "
        "--method dm --method my_parts:FewSynthetic --preset my_parts:Plain --budget 128 --batch 64 --warmup 64 "
        "--seeds 0 --count 40 --detector my_parts:Means --workers 2 --device cpu --out study --plugin my_parts"
    )
    assert main(["compare", *options.split()]) == 0
    rows = json.loads(Path("study/metrics.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["dm", "few-synthetic"]
    assert all(isinstance(row["fd_means"], float) for row in rows)
    page = Path("study/report.html").read_text()
    assert "Trained as SDA is, but with at most every tenth image synthetic." in page
    assert Path("study/command.toml").read_text().startswith("# nomadiff compare --plugin my_parts --config")


@pytest.mark.parametrize("before", [["--plugin=my_parts"], []])
def test_the_next_command_has_the_plugins_of_this_one(before, tmp_path, monkeypatch, capsys):
    """Without them it ended with "in a module that is not imported"; given in front they were taken for the verb."""
    monkeypatch.chdir(tmp_path)
    options = (
        "compare --real digits:pool --real-subset random:60 --synthetic style=digits:style --method dm "
        "--reference digits:reference --method my_parts:FewSynthetic --preset my_parts:Plain --budget 128 --batch 64 "
        "--warmup 64 --seeds 0 --count 40 --workers 0 --device cpu --out study"
    )
    assert main([*before, *options.split(), *([] if before else ["--plugin", "my_parts"])]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next:    nomadiff work study --plugin my_parts"
    command = json.loads(Path("study/jobs/study.json").read_text())["command"]
    assert command.startswith("nomadiff compare --real") and command.endswith("--plugin my_parts")
    launched = []
    monkeypatch.setattr(
        "nomadiff.studies.launch.launch_workers", lambda *_, **options: launched.extend(options["words"]) or []
    )
    assert main(["work", "study", "--launch", "slurm", "--plugin", "my_parts"]) == 0
    assert ("--plugin", "my_parts") in pairwise(launched)  # beside modules that other tests used
    assert capsys.readouterr().out.splitlines()[-1] == "next:    nomadiff status study"


def test_a_verb_takes_plugins_anywhere_and_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert main(["--plugin=my_parts", "info", "my_parts:Means"]) == 0
    assert "detector:    means, version 1" in capsys.readouterr().out
    for words, told in [
        (["info", "x", "--plugin"], "--plugin takes a module's name"),
        (["info", "x", "--plugin", "absent_parts"], "--plugin absent_parts: no such module"),
        (["sample", "x", "--out", str(tmp_path / "y"), "--solver", "absent_parts:f"], "x"),
    ]:
        assert main(words) in (1, 2)
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


def test_a_config_file_imports_nothing(tmp_path, capsys):
    (tmp_path / "options.toml").write_text('plugin = ["absent_parts"]\n')
    assert main(["info", "x", "--config", str(tmp_path / "options.toml")]) == 2
    assert "absent_parts: no such module" not in capsys.readouterr().err
