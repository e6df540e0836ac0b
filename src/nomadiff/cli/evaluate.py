"""``nomadiff evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from nomadiff.cli.options import Convention, Device, DryRun, Level, score_lines
from nomadiff.workflows.evaluate import EvaluationSettings, parse_groups

__all__ = ["evaluate"]


def _groups(hint: Any, tokens: Sequence[Token]) -> dict[str, list[str]]:
    return parse_groups([token.value for token in tokens])


class EvaluationOptions(EvaluationSettings):
    train: str | None
    detector: str
    classifier: str | None
    extra: tuple[Literal["kid", "ssim", "lpips"], ...]
    groups: Annotated[tuple[str, ...], Parameter(name="--group", converter=_groups)]  # type: ignore[assignment]
    convention: Convention
    interval: Level | None
    save_reference: Path | None
    device: Device


def evaluate(
    samples: Annotated[str, Parameter(help="Generated images: folder, zip, npz or npy.")],
    *,
    reference: str,
    out: Annotated[Path, Parameter(help="Where to write the table: JSON, with CSV beside it.")] = Path("metrics.json"),
    settings: Annotated[EvaluationOptions, Parameter(name="*")] = EvaluationOptions(),  # noqa: B008 - frozen
    dry_run: DryRun = False,
) -> None:
    """Score generated images against held-out real ones, each figure with an interval and what fresh real data scores.

    Always: Frechet distance, precision, recall, density, coverage; with --train replication; with a classifier the
    class composition. On demand (--extra): KID, SSIM and LPIPS between samples and to the nearest training image.

    An example:

    nomadiff evaluate samples.zip --reference held-out/ --train photos/ --out metrics.json

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
    from nomadiff.workflows.evaluate import evaluate_files

    if not dry_run:
        check_table(out)
        if settings.save_reference is not None:
            check_output(settings.save_reference, "file")
    table = evaluate_files(samples, reference, settings, only_check=dry_run)
    if dry_run:
        print("\n".join(f"{name}: {value}" for name, value in table.meta.items()))
        return
    if not table.rows:  # not the main process
        return
    table.write(out)
    meta = table.meta
    print(score_lines(table.rows))
    if "floor_count" in meta:
        print(
            f"fresh real data: {meta['floor_count']} of the reference judged by the other "
            f"{meta['floor_reference_count']}; the fewer, the larger the distance"
        )
    counted = "statistics of unknown count" if meta["reference_count"] is None else f"{meta['reference_count']} images"
    print(f"{meta['count']} samples, reference {counted}, detector {meta['detector']}; table: {out}")
