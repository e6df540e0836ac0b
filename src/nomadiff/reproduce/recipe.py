"""Every table and figure of the papers by name: ``nomadiff reproduce NAME``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.reproduce.study import plan_study, run_study
from nomadiff.tables import Table

__all__ = ["RECIPES", "describe_recipes", "reproduce"]

RECIPES = (
    "casd-table-1",
    "casd-figure-2",
    "casd-table-2",
    "casd-figure-3",
    "casd-table-3",
    "sims-table-1",
    "sims-figure-3",
    "sims-figure-4",
    "sims-figure-5",
    "sims-figure-6",
    "sims-figure-7",
    "sims-figure-8",
    "sims-figure-9",
    "improve-relatives",
    "loop-comparison",
)


def _module(name: str) -> Any:
    if name not in RECIPES:
        raise UsageError(f"unknown recipe '{name}': choose one of {', '.join(RECIPES)}")
    return importlib.import_module(f"nomadiff.reproduce.{name.replace('-', '_')}")


def describe_recipes() -> str:
    """One line a recipe."""
    return "\n".join(f"{name:<18} {_module(name).DESCRIPTION}" for name in RECIPES)


def reproduce(
    name: str,
    out: Path,
    *,
    scale: str = "small",
    data: Path | None = None,
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    command: str = "",
    **options: Any,
) -> str:
    """Run a recipe, or say what it needs.

    Args:
        name: one of :data:`RECIPES`.
        out: where its tables, plots and report go.
        scale: "smoke", "small", "medium" (CASD's recipes) or "paper".
        data: folder with the files it reads, for recipes on images.
        seeds: seeds of the models; None takes the recipe's own, or 0, 1 and 2.
        dry_run: only say what it needs and costs.
        command: printed in the report.
        **options: further options of recipes that take them (``runs``, ``generations``, ``device``, ...).

    Returns:
        The text to print: the recipe's conclusion, its source, and the files written.

    Raises:
        UsageError: no such recipe or scale, or an option that this recipe does not take.
        DataError: files are missing.
    """
    module = _module(name)
    given = {key: value for key, value in options.items() if value is not None}
    if hasattr(module, "study"):
        device = given.pop("device", None)
        if given:
            raise UsageError(f"{name} does not take {', '.join(sorted(given))}")
        study = module.study(scale, data, tuple(seeds or (0, 1, 2)))
        if dry_run:
            return plan_study(study, data)
        result = run_study(study, out, data=data, device=device, command=command)
    else:
        known = inspect.signature(module.run).parameters
        also = {"data": data, "seeds": seeds and tuple(seeds), "command": command}
        given |= {key: value for key, value in also.items() if key in known and value is not None}
        if unknown := sorted(given.keys() - known.keys()):
            raise UsageError(f"{name} does not take {', '.join(unknown)}")
        if dry_run:
            plan = module.run(out, scale=scale, dry_run=True, **given)
            said = plan.meta["plan"] if isinstance(plan, Table) else plan["text"]
            return "\n".join([f"{name}: {module.DESCRIPTION}", *([said] if isinstance(said, str) else said)])
        result = module.run(out, scale=scale, **given)
    files = [f"{path.name}: {path}" for path in sorted(out.glob("*")) if path.is_file()]
    told = [result["text"]] if isinstance(result, Mapping) and "text" in result else []
    return "\n".join([*told, *files])
