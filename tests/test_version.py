"""The version is written once, in ``nomadiff.version``; a release's tag is that version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nomadiff
from nomadiff.version import __version__

ROOT = Path(__file__).parents[1]


def test_the_build_reads_the_version_from_its_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    assert (ROOT / settings["tool"]["hatch"]["version"]["path"]).samefile(ROOT / "src/nomadiff/version.py")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", __version__)


def test_package_and_command_line_say_this_version() -> None:
    assert nomadiff.__version__ is __version__
    done = subprocess.run(
        [sys.executable, "-m", "nomadiff", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == __version__


def test_the_citation_names_this_version() -> None:
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited == __version__


def test_the_changelog_starts_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None and first[1] == __version__


@pytest.mark.skipif(os.environ.get("GITHUB_REF_TYPE") != "tag", reason="only a tagged build has a tag to compare")
def test_the_tag_is_the_version() -> None:
    assert os.environ["GITHUB_REF_NAME"] == f"v{__version__}"
