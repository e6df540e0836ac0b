"""``nomadiff evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, Out

__all__ = ["evaluate"]


def evaluate(
    samples: Annotated[str, Parameter(help="Generated images: folder, zip, npz or npy.")],
    *,
    reference: str,
    out: Out = Path("metrics.json"),
    train: str | None = None,
    detector: str = "pixels",
    detector_weights: str | None = None,
    classifier: str | None = None,
    k: int = 5,
    interval: float | None = 0.95,
    resolution: int | None = None,
    allow_synthetic_as_real: bool = False,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Score generated images against held-out real ones: distance, precision, recall, coverage, replication.

    An example:

    nomadiff evaluate samples.zip --reference held-out/ --train photos/ --out metrics.json

    Use real images the model never saw as the reference: against its training set, a model that copies looks perfect.

    Args:
        samples: generated images.
        reference: Held-out real images.
        out: table.
        train: The real images the model was trained on; needed for replication.
        detector: Feature space: pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        classifier: Classifier for the class composition; the detector itself where it classifies.
        k: Neighbour of precision, recall, density and coverage.
        interval: Level of the confidence intervals.
        resolution: Resize everything to this many pixels.
        allow_synthetic_as_real: Accept a sample set with a manifest as reference or training set.
        device: where to compute.
        dry_run: read and check the images only.
    """
    from nomadiff.experiments.evaluation import evaluate_files

    table = evaluate_files(
        samples,
        reference,
        train=train,
        detector=detector,
        detector_weights=detector_weights,
        classifier=classifier,
        k=k,
        interval=interval,
        resolution=resolution,
        allow_synthetic_as_real=allow_synthetic_as_real,
        device=device,
        only_check=dry_run,
    )
    if dry_run:
        print("\n".join(f"{name}: {value}" for name, value in table.meta.items()))
        return
    table.write(out)
    for row in table.rows:
        low, high = row["low"], row["high"]
        print(f"{row['metric']:<24} {row['value']:.4g}" + (f"  [{low:.4g}, {high:.4g}]" if low is not None else ""))
    meta = table.meta
    print(
        f"{meta['count']} samples, {meta['reference_count']} reference images, "
        f"detector {meta['detector']}; table: {out}"
    )
