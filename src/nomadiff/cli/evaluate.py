"""``nomadiff evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, SkipUnreadable, score_lines

__all__ = ["evaluate"]


def evaluate(
    samples: Annotated[str, Parameter(help="Generated images: folder, zip, npz or npy.")],
    *,
    reference: str,
    out: Annotated[Path, Parameter(help="Where to write the table: JSON, with CSV beside it.")] = Path("metrics.json"),
    train: str | None = None,
    detector: str = "pixels",
    detector_weights: str | None = None,
    classifier: str | None = None,
    classifier_weights: str | None = None,
    extra: tuple[Literal["kid", "ssim", "lpips"], ...] = (),
    lpips_weights: tuple[str, str] | None = None,
    by_class: bool = False,
    group: tuple[str, ...] = (),
    k: int = 5,
    convention: Literal["prdc", "kynkaanniemi"] = "prdc",
    interval: float | None = 0.95,
    save_reference: Path | None = None,
    resolution: int | None = None,
    allow_synthetic_as_real: bool = False,
    skip_unreadable: SkipUnreadable = False,
    allow_train_as_reference: bool = False,
    device: Device = None,
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
        train: The real images the model was trained on; needed for replication.
        detector: Feature space: pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        classifier: Classifier for composition and classes; the detector itself where it classifies.
        classifier_weights: File or URL of the classifier's weights; checked by SHA-256.
        extra: A further metric; once for every one.
        lpips_weights: Files or URLs of LPIPS' AlexNet and of its heads; checked by SHA-256.
        by_class: Score every class by itself too.
        group: Score a group of classes by itself too, as in animals=bird,cat; once for every group.
        k: Neighbour of precision, recall, density and coverage.
        convention: Whose precision and recall: prdc (nearer than the radius) or kynkaanniemi (on it too, usually k 3).
        interval: Level of the confidence intervals.
        save_reference: Where to write the reference's features and statistics (.npz), to score by later.
        resolution: Resize everything to this many pixels.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference or training set.
        skip_unreadable: leave files out.
        allow_train_as_reference: Accept a reference that is the training set, or mostly.
        device: where to compute.
        dry_run: read and check the images only.
    """
    from nomadiff.files import check_output
    from nomadiff.tables import check_table
    from nomadiff.workflows.evaluate import evaluate_files, parse_groups

    if not dry_run:
        check_table(out)
        if save_reference is not None:
            check_output(save_reference, "file")
    table = evaluate_files(
        samples,
        reference,
        train=train,
        detector=detector,
        detector_weights=detector_weights,
        classifier=classifier,
        classifier_weights=classifier_weights,
        k=k,
        convention=convention,
        extra=extra,
        lpips_weights=lpips_weights,
        by_class=by_class,
        groups=parse_groups(group) if group else None,
        interval=interval,
        save_reference=save_reference,
        resolution=resolution,
        allow_synthetic_as_real=allow_synthetic_as_real,
        skip_unreadable=skip_unreadable,
        allow_train_as_reference=allow_train_as_reference,
        device=device,
        only_check=dry_run,
    )
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
