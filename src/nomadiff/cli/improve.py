"""``nomadiff improve``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from nomadiff.cli.options import Device, DryRun, Images, Out, SkipUnreadable
from nomadiff.guidance.guided import Interval
from nomadiff.improve.settings import Improvement

__all__ = ["improve"]


def _weight(hint: Any, tokens: Sequence[Token]) -> float | None:
    text = tokens[0].value
    return None if text == "auto" else float(text)


def _interval(hint: Any, tokens: Sequence[Token]) -> tuple[float, float]:
    texts = tokens[0].value.split(":") if len(tokens) == 1 else [token.value for token in tokens]  # two in a file
    if len(texts) != 2:
        raise ValueError(f"'{texts[0]}' is no interval: write the lowest and the highest sigma, such as 0.1:20")
    return float(texts[0]), float(texts[1])


@dataclass(frozen=True, kw_only=True)
class ImprovementOptions(Improvement):
    __doc__ = Improvement.__doc__

    # as a command line writes them; the defaults are those of Improvement
    synthetic_count: Images | None = Improvement.synthetic_count
    budget: Images | None = Improvement.budget
    learning_rate: Annotated[float | None, Parameter(name=["--learning-rate", "--lr"])] = Improvement.learning_rate
    warmup: Images = Improvement.warmup
    ema_half_life: Images | None = Improvement.ema_half_life
    weight: Annotated[float | None, Parameter(converter=_weight)] = Improvement.weight
    interval: Annotated[Interval | None, Parameter(converter=_interval, n_tokens=1)] = Improvement.interval
    count: Images = Improvement.count


def improve(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    settings: Annotated[ImprovementOptions, Parameter(name="*")] = ImprovementOptions(),
    out: Out,
    reference: str | None = None,
    train: str | None = None,
    detector: str = "pixels",
    allow_synthetic_as_real: bool = False,
    skip_unreadable: SkipUnreadable = False,
    allow_train_as_reference: bool = False,
    vae: str | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Improve a model by its own samples, without new data (SIMS, Neon).

    An example:

    nomadiff improve run/ --reference held-out/ --train photos/ --out better/

    The model draws samples, a copy learns from them, and what is drawn in the end moves away from the copy. Weight and
    budget are chosen by their score on held-out images; if the gain is not sure, it says so and --out draws as the base
    does. The same command continues an interrupted improvement; with another --space, --weight or --interval it uses
    the same copy again.

    Args:
        model: the base.
        settings: how.
        out: The improved model: any verb takes this folder.
        reference: Held-out real images to choose by; needed unless --weight is given.
        train: The real images the model was trained on, to watch replication.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference.
        skip_unreadable: leave files out.
        allow_train_as_reference: Accept a reference that the model was trained on.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.processes import join_processes
    from nomadiff.workflows.improve import improve_files, plan_improvement

    if not dry_run:
        check_output(out, "folder")
    if dry_run:
        print(plan_improvement(model, settings, scored=reference is not None))
        return
    done = improve_files(
        model,
        out,
        settings,
        reference=reference,
        train=train,
        detector=detector,
        allow_synthetic_as_real=allow_synthetic_as_real,
        skip_unreadable=skip_unreadable,
        allow_train_as_reference=allow_train_as_reference,
        vae=vae,
        device=device,
        command=shlex.join(["nomadiff", *sys.argv[1:]]),
    )
    if not join_processes(device).is_main:
        return
    print(f"{done.sentence}\nmodel:  {out}\nscores: {out / 'improve.json'}")
    if done.gain is not None:
        print(f"report: {out / 'report.html'}")
    print(f"next:   nomadiff sample {out} --count 1000 --out samples.zip")
