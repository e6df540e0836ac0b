"""``nomadiff improve``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from nomadiff.cli.answer import Answer, command_line, facts
from nomadiff.cli.next_steps import after_improvement
from nomadiff.cli.options import Device, DryRun, Images, LearningRate, Out
from nomadiff.cli.settings import HeldOutOptions, HeldOutSet
from nomadiff.guidance.strength import Interval
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


class ImprovementOptions(Improvement):
    synthetic_count: Images | None
    budget: Images | None
    learning_rate: LearningRate | None
    warmup: Images
    ema_half_life: Images | None
    weight: Annotated[float | None, Parameter(converter=_weight, metavar="FLOAT|auto")]
    interval: Annotated[Interval | None, Parameter(converter=_interval, n_tokens=1, metavar="LOW:HIGH")]
    count: Images


def improve(
    model: Annotated[
        Path,
        Parameter(help="Run folder, model.safetensors, a snapshot file; weights of EDM or a diffusers pipeline."),
    ],
    *,
    settings: Annotated[ImprovementOptions, Parameter(name="*")] = ImprovementOptions(),  # noqa: B008 - frozen
    out: Out,
    held_out: HeldOutSet = HeldOutOptions(),  # noqa: B008 - frozen
    train: str | None = None,
    vae: str | None = None,
    workers: int | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Improve a model by its own samples, without new data (SIMS, Neon).

    An example:

    nomadiff improve run/ --reference held-out/ --train photos/ --out better/

    The model draws samples, a copy learns from them, and what is drawn in the end moves away from the copy. Weight and
    budget are chosen by their score on held-out images; if the gain is not sure, it says so and --out draws as the base
    does. The same command continues an interrupted improvement; with another --space, --weight or --interval it uses
    the same copy again.

    Args:
        model: the base; weights of EDM and pipelines of diffusers are imported first.
        settings: how.
        out: The improved model: any verb takes this folder.
        held_out: what to choose by.
        train: The real images the model was trained on, to watch replication.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
        workers: Processes that share copies, searches and scoring; 0 writes the plan, for work. By default this process
            does all of it, with those of torchrun.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.processes import join_processes
    from nomadiff.workflows.improve import improve_files, plan_improvement

    if dry_run:
        plan = plan_improvement(model, settings, scored=held_out.reference is not None)
        return Answer(text=plan, value=facts(plan))
    check_output(out, "folder")
    command = command_line()
    if workers is None:
        done = improve_files(model, out, settings, held_out, train=train, vae=vae, device=device, command=command)
    else:
        from nomadiff.workflows.improve_jobs import ImprovementStudy, begin_improvement, improve_study

        study = ImprovementStudy(
            model=str(model),
            out=out,
            improvement=settings,
            held_out=held_out,
            train=train,
            vae=vae,
            device=device,
            command=command,
        )
        if workers == 0:
            begin_improvement(study)
            return Answer(files={"planned": out}, next=("work", out))
        done = improve_study(study, workers)
    if not join_processes(device).is_main:
        return None
    files = {"model": out, "scores": out / "improve.json"}
    files |= {} if done.gain is None else {"report": out / "report.html"}
    following = after_improvement(done, model, out, asked=settings.weight is not None)
    return Answer(value=done.table, files=files, verdict=[done.sentence], next=following)
