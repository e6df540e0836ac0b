"""``nomadiff improve``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from nomadiff.cli.options import Device, DryRun, Images, Out, SkipUnreadable

__all__ = ["improve"]


def _weight(hint: Any, tokens: Sequence[Token]) -> float | None:
    text = tokens[0].value
    return None if text == "auto" else float(text)


def _interval(hint: Any, tokens: Sequence[Token]) -> tuple[float, float]:
    low, colon, high = tokens[0].value.partition(":")
    if not colon:
        raise ValueError(f"'{tokens[0].value}' is no interval: write the lowest and the highest sigma, such as 0.1:20")
    return float(low), float(high)


def improve(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    out: Out,
    reference: str | None = None,
    train: str | None = None,
    detector: str = "pixels",
    metric: str | None = None,
    synthetic_count: Images | None = None,
    budget: Images | None = None,
    snapshots: int = 4,
    learning_rate: Annotated[float | None, Parameter(name=["--learning-rate", "--lr"])] = None,
    warmup: Images = 0,
    ema_half_life: Images | None = None,
    keep_ema: bool = False,
    train_part: str = "all",
    space: str = "function",
    weight: Annotated[float | None, Parameter(converter=_weight)] = None,
    weight_limit: float = 2.0,
    evaluations: int = 8,
    interval: Annotated[tuple[float, float] | None, Parameter(converter=_interval, n_tokens=1)] = None,
    count: Images = 1000,
    confirmations: int = 8,
    keep_synthetic: bool = False,
    seed: int = 0,
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
        out: The improved model: any verb takes this folder.
        reference: Held-out real images to choose by; needed unless --weight is given.
        train: The real images the model was trained on, to watch replication.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        metric: Metric to choose by; the Frechet distance of the detector by default.
        synthetic_count: Own samples to fine-tune on; as many as the model had real images by default.
        budget: Images of fine-tuning, such as 5Mi; a fifth of the model's own budget by default
            (EDM2, ADM: 5 %), as SIMS took.
        snapshots: Budgets to choose from, evenly spaced up to --budget.
        learning_rate: Learning rate of the fine-tuning; the model's last one by default.
        warmup: Images over which it rises from 0.
        ema_half_life: Half-life of the moving average, in images; the model's by default.
        keep_ema: Let the average forget the base at the full half-life only; by default it starts anew.
        train_part: all, or decoder: its end only, so that sampling costs at most half more.
        space: function (SIMS: two networks are called) or parameters (Neon: one merged network).
        weight: Guidance weight, or auto to search it.
        weight_limit: Largest weight of the search.
        evaluations: Weights tried for each budget.
        interval: Noise levels at which the copy is called, lowest:highest sigma, such as 0.1:20.
        count: Samples of every model that is scored.
        confirmations: Sets of fresh noise on which the best candidate is compared with the base.
        keep_synthetic: Keep the own samples as own.zip.
        seed: Seed of everything.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference.
        skip_unreadable: leave files out.
        allow_train_as_reference: Accept a reference that the model was trained on.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.improve.settings import Improvement
    from nomadiff.processes import join_processes
    from nomadiff.workflows.improve import improve_files, plan_improvement

    if not dry_run:
        check_output(out, "folder")
    settings = Improvement(
        synthetic_count=synthetic_count,
        budget=budget,
        snapshots=snapshots,
        learning_rate=learning_rate,
        warmup=warmup,
        ema_half_life=ema_half_life,
        keep_ema=keep_ema,
        train_part=train_part,
        space=space,
        weight=weight,
        interval=interval,
        metric=metric,
        weight_limit=weight_limit,
        evaluations=evaluations,
        count=count,
        confirmations=confirmations,
        keep_synthetic=keep_synthetic,
        seed=seed,
    )
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
