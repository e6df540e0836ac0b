"""Work on a file that takes hours goes on in ``<out>.part``: what the folder is for is written in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.files import read_json, write_json

__all__ = ["JOB_NAME", "claim", "part_of"]

JOB_NAME = "job.json"


def part_of(out: Path) -> Path:
    """Where the work on ``out`` goes on."""
    return out.with_name(f"{out.name}.part")


def claim(part: Path, recipe: dict[str, Any]) -> None:
    """Claim the working folder, or make sure that it holds the same job.

    Args:
        part: the folder; it exists.
        recipe: what must not change when the work continues.

    Raises:
        UsageError: it holds another job, or something else.
    """
    recipe = json.loads(json.dumps(recipe))
    path = part / JOB_NAME
    if path.exists():
        found = read_json(path)
        if different := sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key)):
            raise UsageError(
                f"{part} holds another job half done (differs in {', '.join(different)}); "
                "finish it, remove it, or choose another --out"
            )
    elif any(not entry.name.startswith(".") for entry in part.iterdir()):
        raise UsageError(f"{part} is not empty and not a job of nomadiff; choose another --out")
    write_json(path, recipe)
