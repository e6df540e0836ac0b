"""``nomadiff evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from nomadiff.cli.answer import Answer, command_line, default_table, scoring_command
from nomadiff.cli.lines import comparison_lines, score_lines
from nomadiff.cli.next_steps import after_evaluation
from nomadiff.cli.options import Convention, Device, DryRun, Level
from nomadiff.workflows.evaluation_settings import EvaluationSettings, parse_groups

__all__ = ["evaluate"]


def _groups(hint: Any, tokens: Sequence[Token]) -> dict[str, list[str]]:
    return parse_groups([token.value for token in tokens])


class EvaluationOptions(EvaluationSettings):
    train: str | None
    detector: str
    classifier: str | None
    extra: tuple[Literal["kid", "cmmd", "ssim", "lpips"], ...]
    copies: str | None
    groups: Annotated[tuple[str, ...], Parameter(name="--group", converter=_groups, metavar="NAME=CLASS,CLASS")]  # type: ignore[assignment]
    convention: Convention
    interval: Level | None
    save_reference: Path | None
    device: Device


def evaluate(
    *samples: Annotated[str, Parameter(help="Generated images: folder, zip, npz or npy; several as [name=]path.")],
    reference: str,
    out: Annotated[
        Path | None,
        Parameter(help="Where to write the table (metrics.json by default): JSON; CSV and report go beside it."),
    ] = None,
    settings: Annotated[EvaluationOptions, Parameter(name="*")] = EvaluationOptions(),  # noqa: B008 - frozen
    dry_run: DryRun = False,
) -> Answer | None:
    """Score generated images against held-out real ones, each figure with an interval and what fresh real data scores.

    Always: Frechet distance, its ratio to that of fresh real data (FDr), precision, recall, density, coverage; with
    --train replication, and a list of likely copies beside their training images; with a classifier the class
    composition. On demand (--extra): KID, CMMD, SSIM and LPIPS between samples and to the nearest training image.

    An example, and another:

    nomadiff evaluate samples.zip --reference held-out/ --train photos/ --out metrics.json

    nomadiff evaluate dm=dm.zip casd=casd.zip --reference held-out/ --out compared.json

    Several sets become one table, with the difference of each from the first and the interval of that difference.

    Use real images the model never saw as the reference: against its training set, a model that copies looks perfect.

    Args:
        samples: generated images.
        reference: Held-out real images, or statistics: a file of --save-reference, of EDM (.npz) or EDM2 (.pkl).
        out: table.
        settings: how.
        dry_run: read and check the images only.
    """
    from nomadiff.files import check_output
    from nomadiff.tables import check_table
    from nomadiff.workflows.evaluate import evaluate_sets
    from nomadiff.workflows.evaluation_report import notes_on, write_evaluation
    from nomadiff.workflows.evaluation_verdict import verdict_on
    from nomadiff.workflows.score_table import check_page_beside

    if not dry_run:
        out = out or default_table()
        check_table(out)
        check_page_beside(out)
        if settings.save_reference is not None:
            check_output(settings.save_reference, "file")
    evaluation = evaluate_sets(samples, reference, settings, only_check=dry_run)
    table = evaluation.table
    if dry_run:
        return Answer(text="\n".join(f"{name}: {value}" for name, value in table.meta.items()), value=table.meta)
    if not table.rows or out is None:  # not the main process
        return None
    table.meta["command"] = scoring_command()
    files = write_evaluation(evaluation, out, command_line())
    meta = table.meta
    lines = [comparison_lines(table.rows) if evaluation.several else score_lines(table.rows)]
    if "floor_count" in meta:
        lines.append(
            f"fresh real data: {meta['floor_count']} of the reference judged by the other "
            f"{meta['floor_reference_count']}; the fewer, the larger the distance"
        )
    lines += notes_on(evaluation)
    counted = "statistics of unknown count" if meta["reference_count"] is None else f"{meta['reference_count']} images"
    counts = sorted({len(source) for source in evaluation.samples.values()})
    made = " to ".join(str(count) for count in (counts[0], *counts[1:][-1:]))
    lines.append(f"{made} samples, reference {counted}, detector {meta['detector']}")
    named = {"table": files[0], "report": files[1]} | {f"likely copies ({path.name})": path for path in files[2:]}
    return Answer(
        text="\n".join(lines),
        value=table,
        files=named,
        verdict=verdict_on(evaluation),
        next=after_evaluation(evaluation, out),
    )
