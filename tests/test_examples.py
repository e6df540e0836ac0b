"""What the documentation shows must run: every example, and the Python of the README."""

import os
import re
import shlex
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


def commands_of(page: Path) -> list[str]:
    """What follows ``nomadiff`` in the blocks of a page, but for commands that leave something out (...)."""
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    found = re.findall(r"^(?:.*-m |# )?nomadiff ([a-z].*?)(?:\s+#.*)?$", blocks.replace("\\\n", " "), re.MULTILINE)
    return [command.removesuffix(" &") for command in found if "..." not in command]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if commands_of(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_the_pages_are_read(page):
    """By the parser of the command line itself: no unknown verb or option, no value that it does not take."""
    from nomadiff.cli import _ANYWHERE, _parsed, _without_plugins, build_app

    for command in commands_of(page):
        _, words = _without_plugins([word for word in shlex.split(command) if word not in _ANYWHERE])
        _parsed(build_app(), words)


def test_pages_have_commands():
    assert len(PAGES) > 10 and sum(len(commands_of(page)) for page in PAGES) > 100
