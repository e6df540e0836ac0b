"""What docs/methods.md shows runs, and its table names every method."""

import re
import shlex
from pathlib import Path

import pytest

from nomadiff.cli import main
from nomadiff.methods.registry import METHODS
from nomadiff.models.model import Model

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_every_method_is_in_the_table():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if re.match(r"\| `\w", line)]
    assert {name for row in rows for name in re.findall(r"`([\w+-]+)`", row)} == set(METHODS)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        device = [] if " verdict " in line else ["--device", "cpu"]
        assert main([*shlex.split(line)[1:], *device]) == 0, line
    assert Path("study/report.html").exists() and Path("ambient/preparation/floors.csv").exists()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    scope = {}
    exec(code, scope)
    assert scope["images"].shape == (16, 1, 8, 8)
    for name in ("ambient", "filtered", "weighted"):
        assert Model.load(name).config.method == name
