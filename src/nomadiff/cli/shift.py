"""``nomadiff shift``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, Images, Out, SkipUnreadable

__all__ = ["shift"]


def shift(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    out: Out,
    target: tuple[str, ...],
    classifier: str | None = None,
    reference: str | None = None,
    detector: str = "pixels",
    weight: tuple[float, ...] | None = None,
    synthetic_count: Images | None = None,
    budget: Images | None = None,
    learning_rate: Annotated[float | None, Parameter(name=["--learning-rate", "--lr"])] = None,
    count: Images = 1000,
    seed: int = 0,
    allow_synthetic_as_real: bool = False,
    skip_unreadable: SkipUnreadable = False,
    allow_train_as_reference: bool = False,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Move the composition of what a model draws toward a target, by its own samples (SIMS section 4.3).

    An example:

    nomadiff shift run/ --target cat=0.3 --classifier cifar10-resnet56 --reference held-out/ --out shifted/

    The model draws samples, the classifier labels them, a copy learns from a set of them in which the group is as rare
    as it shall become frequent, and what is drawn in the end moves away from the copy. The smallest weight that reaches
    the target is recommended, and what it cost is said. The same command continues an interrupted shift; with other
    weights it uses the same copy again.

    Args:
        model: the base.
        out: The shifted model: any verb takes this folder.
        target: Share of a class, or of several together: 3=0.3, or 0,1,2=0.6; once for every group.
        classifier: cifar10-resnet56, or a TorchScript file of logits (classes 0, 1, ...); digits need none.
        reference: Held-out real images, to measure the distance of every group; without them only shares are.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        weight: Guidance weight to try, once for each; -1 and 0.25 to 2 in quarters by default.
        synthetic_count: Size of the set to fine-tune on; as many as the model had real images by default.
        budget: Images of fine-tuning, such as 5Mi; a fifth of the model's own budget by default
            (EDM2, ADM: 5 %).
        learning_rate: Learning rate of the fine-tuning; the model's last one by default.
        count: Samples at every weight.
        seed: Seed of everything.
        allow_train_as_reference: Accept a reference that the model was trained on.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference.
        skip_unreadable: leave files out.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.processes import join_processes
    from nomadiff.shift.complement import parse_targets
    from nomadiff.shift.shift import Shift
    from nomadiff.workflows.shift import plan_shift, shift_files

    if not dry_run:
        check_output(out, "folder")
    settings = Shift(
        target=parse_targets(target),
        **({} if weight is None else {"weights": weight}),
        synthetic_count=synthetic_count,
        budget=budget,
        learning_rate=learning_rate,
        count=count,
        seed=seed,
    )
    if dry_run:
        print(plan_shift(model, settings, scored=reference is not None))
        return
    done = shift_files(
        model,
        out,
        settings,
        classifier=classifier,
        reference=reference,
        detector=detector,
        allow_synthetic_as_real=allow_synthetic_as_real,
        skip_unreadable=skip_unreadable,
        allow_train_as_reference=allow_train_as_reference,
        device=device,
        command=shlex.join(["nomadiff", *sys.argv[1:]]),
    )
    if not join_processes(device).is_main:
        return
    print(f"{done.text()}\n{done.sentence}\nmodel:  {out}\nscores: {out / 'shift.json'}\nreport: {out / 'report.html'}")
    print(f"next:   nomadiff sample {out} --count 1000 --out samples.zip")
