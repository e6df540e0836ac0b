"""``nomadiff compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, command_line, facts
from nomadiff.cli.next_steps import after_comparison
from nomadiff.cli.options import Device, DryRun, Floor, Hidden, Out
from nomadiff.cli.settings import ArmTraining, MixOptions
from nomadiff.workflows.comparison import Comparison

if TYPE_CHECKING:
    from nomadiff.tables import Table

__all__ = ["answer_of", "compare"]


class ComparisonOptions(Comparison):
    mix: Annotated[MixOptions, Parameter(name="*")]
    reference: str
    out: Out
    methods: Annotated[tuple[str, ...], Parameter(name="--method")]
    preset: str | None
    floor: Floor | None
    changes: Annotated[Mapping[str, Any], Hidden]
    validation: str | None
    detector: str
    classifier: str | None
    similarity: Annotated[bool, Hidden]
    device: Device
    title: Annotated[str, Hidden]
    command: Annotated[str, Hidden]
    notes: Annotated[tuple[str, ...], Hidden]


def compare(
    comparison: Annotated[ComparisonOptions, Parameter(name="*")],
    training: Annotated[ArmTraining, Parameter(name="*")] = ArmTraining(),  # noqa: B008 - frozen
    *,
    dry_run: DryRun = False,
) -> Answer:
    """Train methods (dm, sda, casd, sims, neon, ...) at equal budget over several seeds and write one report.

    An example:

    nomadiff compare --real photos/ --synthetic sdxl=generated/ --reference held-out/ --out study/

    Each synthetic source is compared by itself; --together trains on all of them at once. In --real-subset and
    --synthetic-subset, {seed} is replaced by each seed, so that every seed draws its own images.

    --real-fraction auto tries a few shares of real images for sda and casd with short trainings, and takes the one with
    the least loss on real images that these did not see; the reference has no say in it.

    Methods that first find out how to use the synthetic images (ambient, weighted, filtered) count what that takes in
    the budget.

    Methods that guide a base (sims, neon, source-guidance, autoguidance, discriminator-guidance; on another base than
    dm casd+sims and the like) divide the budget between two trainings, at weight 1, and bring their control: the
    base's method with the whole budget.

    Args:
        comparison: what to compare.
        training: how every model is trained.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.workflows.compare import begin_comparison, plan_comparison
    from nomadiff.workflows.compare import compare as run

    if not dry_run:
        check_output(comparison.out, "folder")
    settings = replace(comparison, changes=training.changes(), command=command_line()).with_preset()
    if comparison.preset is None:
        print(f"preset: {settings.preset}, which suits these images and this device (others: --preset)")
    if dry_run:
        plan = plan_comparison(settings)
        return Answer(text=plan, value=facts(plan))
    if settings.workers == 0:
        begin_comparison(settings)
        count = len(settings.arms())
        return Answer(text=f"planned: {count} models", value={"planned": count}, next=("work", settings.out))
    return answer_of(settings, run(settings))


def answer_of(comparison: Comparison, table: Table) -> Answer:
    """The table's files, the verdict on it and what to do about that."""
    from nomadiff.errors import UsageError
    from nomadiff.metrics.verdict import judge

    files = {"report": comparison.out / "report.html", "metrics": comparison.out / "metrics.json"}
    try:
        verdict = judge(table.rows)
    except UsageError:  # without a real-only arm there is nothing to compare with
        return Answer(value=table, files=files, next=("table", comparison.out))
    return Answer(
        value=table, files=files, verdict=verdict.text().splitlines(), next=after_comparison(comparison, verdict.step)
    )
