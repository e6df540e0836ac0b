"""What the documentation shows must run: every example, and the Python of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factories import noise_images

from nomadiff.data.writing import write_images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name, kind, seed in (("photos", "real", 0), ("generated", "synthetic", 1)):
        images = noise_images(40, seed)
        write_images(tmp_path / name, [images], 40, manifest={"kind": kind})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("five_lines.py", ["photos", "generated", "run"], "16 images of (1, 8, 8), torch.uint8"),
        (
            "own_loop.py",
            ["loops"],
            ("fully synthetic: MADness ratio 5.11", "over 5 runs): MAD.", "augmentation: MADness ratio"),
        ),
        ("own_denoiser.py", [], ("100% of the samples replicate", "guided: NFE 70", "this denoiser is a function")),
    ],
)
def test_example(name, arguments, says, folders):
    done = run([str(ROOT / "examples" / name), *arguments], folders)
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in ((says,) if isinstance(says, str) else says))


def test_every_example_is_tested():
    shown = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert shown == {"five_lines.py", "own_denoiser.py", "own_loop.py", "own_parts.py", "my_parts.py"}


@pytest.mark.slow
def test_what_own_parts_says(folders):
    done = run([str(ROOT / "examples" / "own_parts.py"), "out"], folders)
    for told in (
        'network my_parts:Plain, settings {"width": 16}',
        "drawn in a fresh process: NFE 11",
        "the same images in both processes: True",
        "a denoiser improved: NFE 70, copy my_parts:Smooth",
        "few-synthetic  fd_means",
    ):
        assert told in done.stdout, done.stdout + done.stderr
    assert (folders / "out" / "study" / "report.html").exists()


def test_python_of_the_readme(folders):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    small = code.replace('"small32", budget=5_000_000', '"digits", budget=256, batch=64, warmup=64')
    assert small != code
    scope: dict = {}
    exec(small, scope)
    assert scope["images"].dtype == torch.uint8


def test_commands_of_the_readme_parse(folders, capsys):
    """Every nomadiff command of the README is parsed: no unknown verb or option."""
    from nomadiff.cli import main

    commands = re.findall(r"^nomadiff (.+?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        verb = command.split()[0]
        assert main([verb, "--help"]) == 0
        known = capsys.readouterr().out
        for option in re.findall(r"(--[a-z-]+)", command):
            assert option in known, f"{verb} has no {option}"
