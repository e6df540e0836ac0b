"""``nomadiff shift``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from nomadiff.cli.answer import Answer, command_line, facts
from nomadiff.cli.next_steps import after_shift
from nomadiff.cli.options import Device, DryRun, Images, LearningRate, Out
from nomadiff.cli.settings import HeldOutOptions, HeldOutSet
from nomadiff.shift.settings import Shift, parse_targets

__all__ = ["shift"]


def _target(hint: Any, tokens: Sequence[Token]) -> dict[str, float]:
    return parse_targets([token.value for token in tokens])


class ShiftOptions(Shift):
    target: Annotated[tuple[str, ...], Parameter(converter=_target, metavar="CLASS=SHARE")]  # type: ignore[assignment]
    weights: Annotated[tuple[float, ...], Parameter(name="--weight")]
    synthetic_count: Images | None
    budget: Images | None
    learning_rate: LearningRate | None
    count: Images


def shift(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    settings: Annotated[ShiftOptions, Parameter(name="*")],
    out: Out,
    classifier: str | None = None,
    held_out: HeldOutSet = HeldOutOptions(),  # noqa: B008 - frozen
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Move the composition of what a model draws toward a target, by its own samples (SIMS section 4.3).

    An example:

    nomadiff shift run/ --target cat=0.3 --classifier cifar10-resnet56 --reference held-out/ --out shifted/

    The model draws samples, the classifier labels them, a copy learns from a set of them in which the group is as rare
    as it shall become frequent, and what is drawn in the end moves away from the copy. The smallest weight that reaches
    the target is recommended, and what it cost is said. The same command continues an interrupted shift; with other
    weights it uses the same copy again.

    Args:
        model: the base.
        settings: how.
        out: The shifted model: any verb takes this folder.
        classifier: cifar10-resnet56, or a TorchScript file of logits (classes 0, 1, ...); digits need none.
        held_out: what to measure distances to.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.processes import join_processes
    from nomadiff.workflows.shift import plan_shift, shift_files

    if dry_run:
        plan = plan_shift(model, settings, scored=held_out.reference is not None)
        return Answer(text=plan, value=facts(plan))
    check_output(out, "folder")
    command = command_line()
    done = shift_files(model, out, settings, held_out, classifier=classifier, device=device, command=command)
    if not join_processes(device).is_main:
        return None
    return Answer(
        text=done.text(),
        value=done.table,
        files={"model": out, "scores": out / "shift.json", "report": out / "report.html"},
        verdict=[done.sentence],
        next=after_shift(done, out),
    )
