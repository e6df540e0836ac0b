"""``nomadiff reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, command_line, facts
from nomadiff.cli.next_steps import after_reproduction
from nomadiff.cli.options import DryRun, Images, Out

__all__ = ["reproduce"]


def reproduce(
    recipe: Annotated[str | None, Parameter(help="Name of the table or figure; none lists them.")] = None,
    *,
    scale: str = "small",
    out: Out | None = None,
    data: Path | None = None,
    seeds: tuple[int, ...] | None = None,
    seed: int | None = None,
    runs: int | None = None,
    generations: int | None = None,
    budget: Images | None = None,
    processes: int | None = None,
    gpus_per_job: int | None = None,
    learners: tuple[str, ...] | None = None,
    exact: int | None = None,
    device: Annotated[
        str | None, Parameter(help="Where to compute: cpu, cuda, cuda:1; by default the recipe's own.")
    ] = None,
    dry_run: DryRun = False,
) -> Answer:
    """Reproduce a table or figure of the papers.

    An example:

    nomadiff reproduce casd-table-2 --scale small --out study/

    Args:
        recipe: the recipe.
        scale: smoke (seconds), small (two cores, within an hour), medium (photographs from --data: hours on two cores,
            minutes on a GPU) or paper (GPU hours; see --dry-run). Which of them a recipe has, the list says.
        out: Folder for tables, plots and report; reproduce-RECIPE-SCALE by default.
        data: Folder with the image files that the recipe reads.
        seeds: Seeds of the models, for recipes on images; once for every seed. By default the recipe's own.
        seed: First seed, for recipes of many runs.
        runs: Independent runs, for recipes of loops.
        generations: Generations, for recipes of loops.
        budget: Training images that every compared model sees, for CASD's recipes; by default the recipe's own.
        processes: Jobs side by side, for recipes on images and those of loops; one a core, or one a GPU, by default.
        gpus_per_job: GPUs that train and sample one model together, through torchrun; on a CPU as many processes. For
            CASD's recipes.
        learners: Learners of the 2-D recipes: N, P, P0, P2, G; once for every learner.
        exact: For sims-figure-5: measure every generation also by exact optimal transport between this many samples and
            true ones, and print its floor (500 cost little, 2000 most of the time).
        device: where to compute.
        dry_run: Say what it needs and costs.
    """
    from nomadiff.files import check_output
    from nomadiff.reproduce.recipe import describe_recipes
    from nomadiff.reproduce.recipe import reproduce as run
    from nomadiff.tables import read_table
    from nomadiff.workflows.score_table import TABLES

    if recipe is None:
        listed = describe_recipes()
        return Answer(text=listed, value={"recipes": listed.splitlines()}, next=("reproduce", "RECIPE", "--dry-run"))
    out = out or Path(f"reproduce-{recipe}-{scale}")
    if not dry_run:
        check_output(out, "folder")
    text = run(
        recipe,
        out,
        scale=scale,
        data=data,
        seeds=seeds,
        dry_run=dry_run,
        command=command_line(),
        seed=seed,
        runs=runs,
        generations=generations,
        budget=budget,
        processes=processes,
        gpus_per_job=gpus_per_job,
        learners=learners,
        exact=exact,
        device=device,
    )
    if dry_run:
        return Answer(text=text, value=facts(text))
    tables = [out / name for name in TABLES if (out / name).is_file()]
    value = read_table(tables[0]) if tables else facts(text)
    return Answer(text=text, value=value, next=after_reproduction(recipe, scale, out))
