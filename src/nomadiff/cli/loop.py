"""``nomadiff loop``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, command_line, facts
from nomadiff.cli.next_steps import after_loops
from nomadiff.cli.options import Device, DryRun, Hidden, Images, Out
from nomadiff.cli.settings import ArmTraining
from nomadiff.workflows.image_loop import ImageLoop

__all__ = ["loop"]


class LoopOptions(ImageLoop):
    real: str
    reference: str
    out: Out
    algorithms: Annotated[tuple[str, ...], Parameter(name="--algorithm")]
    real_count: Images | None
    synthetic_count: Images | None
    preset: str | None
    changes: Annotated[Mapping[str, Any], Hidden]
    weight: Annotated[float | None, Parameter(name=["--weight", "-w"])]
    count: Images
    detector: str
    device: Device
    command: Annotated[str, Hidden]


def loop(
    settings: Annotated[LoopOptions, Parameter(name="*")],
    training: Annotated[ArmTraining, Parameter(name="*")] = ArmTraining(),  # noqa: B008 - frozen
    *,
    dry_run: DryRun = False,
) -> Answer:
    """Train generation after generation on its predecessors' images: does it go MAD, and does an algorithm stop it?

    An example:

    nomadiff loop --real photos/ --reference held-out/ --algorithm standard --algorithm sims --out loops/

    The same command goes on with the generation and stage it was stopped at; with more --generations it extends
    finished loops. A distance is printed beside every ratio: a method that is bad from the start has a good ratio.

    Args:
        settings: which loops to run.
        training: how every model is trained.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.tables import read_table
    from nomadiff.workflows.loop import begin_image_loop, plan_image_loop, run_image_loop

    settings = replace(settings, changes=training.changes(), command=command_line())
    if dry_run:
        plan = plan_image_loop(settings)
        return Answer(text=plan, value=facts(plan))
    check_output(settings.out, "folder")
    if settings.workers == 0:
        begin_image_loop(settings)
        return Answer(files={"planned": settings.out}, next=("work", settings.out))
    table = run_image_loop(settings)
    judged = read_table(settings.out / "madness.json").rows
    return Answer(
        value=table,
        files={"report": settings.out / "report.html", "metrics": settings.out / "metrics.json"},
        verdict=[f"{name}: {sentence}" for name, sentence in table.meta["madness"].items()],
        next=after_loops(settings.out, settings.seeds, settings.generations, judged),
    )
