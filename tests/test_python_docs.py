"""What docs/python.md shows: every example runs, and gives the table of the command above it."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from factories import few_steps

from nomadiff.cli import main
from nomadiff.data.digits import read_digits
from nomadiff.data.images import read_images
from nomadiff.data.writing import write_images
from nomadiff.tables import read_table
from nomadiff.training.run_folder import load_tensors

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "python.md").read_text(), re.DOTALL)
COMMANDS = [match[1] for block in BLOCKS if (match := re.match(r"# nomadiff (.*)\n", block))]
TABLES = {
    "evaluate": "metrics.json",
    "metrics": "vectors.json",
    "compare": "study/metrics.json",
    "verdict": "verdict.json",
    "audit": "audit.json",
    "improve": "better/improve.json",
    "loop": "loops/metrics.json",
}


def prepare(folder: Path) -> Path:
    for name, spec, first, count in (
        ("photos", "pool", 0, 60),
        ("held-out", "reference", 0, 60),
        ("generated", "style", 0, 60),
    ):
        images = read_digits(f"digits:{spec}").images[first : first + count]
        manifest = {"kind": "synthetic" if name == "generated" else "real"}
        write_images(folder / name, [images], count, manifest=manifest)
    for seed, name in enumerate(("real", "fake")):
        np.save(folder / f"{name}.npy", np.random.default_rng(seed).normal(size=(60, 4)))
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Both ways, each in a folder of its own: the folders, and what the commands printed."""
    with few_steps(), pytest.MonkeyPatch.context() as patch:
        by_python = prepare(tmp_path_factory.mktemp("python"))
        patch.chdir(by_python)
        scope: dict = {}
        for block in BLOCKS:
            exec(block, scope)
        by_command = prepare(tmp_path_factory.mktemp("command"))
        patch.chdir(by_command)
        for command in COMMANDS:
            assert main(shlex.split(command)) == 0, command
        yield by_python, by_command, scope


@pytest.mark.slow
@pytest.mark.parametrize("verb", TABLES)
def test_python_gives_the_table_of_the_command(verb, told):
    by_python, by_command, _ = told
    one, other = (read_table(folder / TABLES[verb]).rows for folder in (by_python, by_command))
    for row in (*one, *other):
        row.pop("seconds_per_image", None)
    assert one == other and len(one) > 0


@pytest.mark.slow
def test_python_gives_the_models_and_samples_of_the_command(told, capsys):
    by_python, by_command, scope = told
    weights = [load_tensors(folder / "run" / "model.safetensors")[0] for folder in (by_python, by_command)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    measured = [(folder / "watched" / "validation.jsonl").read_bytes() for folder in (by_python, by_command)]
    assert measured[0] == measured[1] and measured[0].count(b"\n") == 2
    samples = [read_images(folder / "samples.zip").images for folder in (by_python, by_command)]
    assert samples[0].equal(samples[1])
    assert main(["info", str(by_command / "run")]) == 0
    described = scope["nd"].info(str(by_command / "run"))
    assert described in capsys.readouterr().out
    assert len(scope["images"]) == 4 and scope["labelled"].class_counts == {"cat": 50}


def test_every_verb_that_makes_a_table_is_shown():
    assert {command.split()[0] for command in COMMANDS} == {*TABLES, "suggest", "train", "sample", "status", "info"}
