"""The page on interop matches the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nomadiff.cli import main
from nomadiff.interop.cards import CARDS
from nomadiff.interop.prompts import SHIPPED, PromptGrid
from nomadiff.interop.torch_files import _Contents
from nomadiff.safe_pickle import _INSTRUCTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_options_they_show(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = re.sub(r"^torchrun .* -m ", "", command).split()
    assert words[0] == "nomadiff"
    assert main([words[1], "--help"]) == 0
    known = capsys.readouterr().out
    for word in words[2:]:
        if word.startswith("--"):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", known), f"{words[1]} has no {word}"


def test_its_numbers_are_right() -> None:
    # two more instructions are read in the loop itself: PROTO and STOP
    assert f"{len(_INSTRUCTIONS) + 2} instructions and {len(_Contents('x', 1).table())} names" in PAGE
    assert f"{len(PromptGrid.read('faces')):,}" in PAGE
    assert all(f"`{name}`" in PAGE for name in SHIPPED)
    used = re.findall(r"nomadiff import (edm[\w-]+) ", PAGE)
    assert used and all(name in CARDS for name in used)
