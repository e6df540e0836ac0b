"""Every table and figure of the papers by name: ``nomadiff reproduce NAME``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.tables import Table

__all__ = ["RECIPES", "Recipe", "Request", "Result", "describe_recipes", "recipe_named", "reproduce"]

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
"""Names; each has a module of its name, with a ``RECIPE``, which is imported when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a recipe, made by :meth:`Recipe.request`; None takes the recipe's own.

    Attributes:
        out: folder for tables, plots and report. A run that was interrupted goes on there.
        scale: one of the recipe's scales: smoke, small, medium or paper.
        command: printed in the report.
        data: folder with the files it reads.
        seeds: seeds of the models, one repetition each.
        seed: seed of everything, in recipes of many runs.
        runs: independent runs.
        generations: generations of every loop.
        budget: training images that every compared model sees.
        processes: jobs side by side.
        gpus_per_job: GPUs that train and sample one model together.
        learners: names of two-dimensional learners.
        exact: samples on which exact optimal transport is computed, too.
        device: where to compute.
    """

    out: Path
    scale: str = "small"
    command: str = ""
    data: Path | None = None
    seeds: tuple[int, ...] | None = None
    seed: int | None = None
    runs: int | None = None
    generations: int | None = None
    budget: int | None = None
    processes: int | None = None
    gpus_per_job: int | None = None
    learners: tuple[str, ...] | None = None
    exact: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Result:
    """What a recipe found; tables, plots and report are in its folder.

    Attributes:
        table: one row a model or, in two dimensions, a loop; the recipe says which fields.
        text: the conclusion, as ``summary.md`` has it; empty where the report alone has one.
    """

    table: Table
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A table or figure of the papers.

    Attributes:
        name: what ``nomadiff reproduce`` calls it.
        description: one line.
        scales: those it has, the smallest first.
        options: fields of :class:`Request` that it takes beside folder, scale and command.
        plan: says what it needs and costs, one fact a line; starts nothing.
        run: does it, and goes on where it was interrupted.
    """

    name: str
    description: str
    scales: tuple[str, ...]
    options: tuple[str, ...]
    plan: Callable[[Request], str]
    run: Callable[[Request], Result]

    def request(self, out: Path, *, scale: str = "small", command: str = "", **options: Any) -> Request:
        """What to plan or run. Options that are None are left to the recipe.

        Raises:
            UsageError: it has no such scale, does not take an option, or there are no processes.
        """
        if scale not in self.scales:
            raise UsageError(f"{self.name} has no scale '{scale}': choose one of {', '.join(self.scales)}")
        given = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(given.keys() - set(self.options)):
            raise UsageError(f"{self.name} does not take {', '.join(unknown)}; it takes {', '.join(self.options)}")
        if given.get("processes", 1) < 1:
            raise UsageError(f"processes must be at least 1, got {given['processes']}")
        return Request(out=out, scale=scale, command=command, **given)


def recipe_named(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe '{name}': choose one of {', '.join(RECIPES)}")
    found: Recipe = importlib.import_module(f"nomadiff.reproduce.{name.replace('-', '_')}").RECIPE
    return found


def describe_recipes() -> str:
    """One line a recipe: name, what it is, its scales."""
    recipes = map(recipe_named, RECIPES)
    return "\n".join(f"{each.name:<18} {each.description} [{', '.join(each.scales)}]" for each in recipes)


def reproduce(name: str, out: Path, *, dry_run: bool = False, **options: Any) -> str:
    """Run a recipe, or say what it needs.

    Args:
        name: one of :data:`RECIPES`.
        out: where its tables, plots and report go.
        dry_run: only say what it needs and costs.
        **options: ``scale``, ``command`` and what else of :class:`Request` the recipe takes.

    Returns:
        The text to print: the recipe's conclusion and the files written, or the plan.

    Raises:
        UsageError: no such recipe or scale, or an option that this recipe does not take.
        DataError: files are missing.
    """
    recipe = recipe_named(name)
    request = recipe.request(out, **options)
    if dry_run:
        return f"{recipe.name}: {recipe.description}\n{recipe.plan(request)}"
    text = recipe.run(request).text
    files = [f"{path.name}: {path}" for path in sorted(out.glob("*")) if path.is_file()]
    return "\n".join([*([text] if text else []), *files])
