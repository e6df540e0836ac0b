"""Scoring files of images, which is what ``nomadiff evaluate`` does."""

from __future__ import annotations

from nomadiff.data.sources import ImageSource
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.evaluate import evaluate
from nomadiff.processes import join_processes
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions

__all__ = ["evaluate_files"]


def evaluate_files(
    samples: str,
    reference: str,
    *,
    train: str | None = None,
    detector: str = "pixels",
    detector_weights: str | None = None,
    classifier: str | None = None,
    k: int = 5,
    interval: float | None = 0.95,
    resolution: int | None = None,
    allow_synthetic_as_real: bool = False,
    device: str | None = None,
    only_check: bool = False,
) -> Table:
    """Score a set of generated images against real ones.

    Args:
        samples: generated images, anything :meth:`~nomadiff.data.sources.ImageSource.open` opens.
        reference: held-out real images.
        train: real images the generator was trained on, for replication.
        detector_weights: path or URL of the detector's weights, if not its own.
        detector, classifier, k, interval: see :func:`~nomadiff.metrics.evaluate.evaluate`.
        resolution: resize everything to this many pixels.
        allow_synthetic_as_real: accept sets with a synthetic manifest as real.
        device: where the detector computes.
        only_check: read the images and load the detector, score nothing: the table has no rows.

    Returns:
        One row a metric: ``metric``, ``value``, ``low``, ``high`` (None without ``interval``); the meta says what makes
        the figures comparable.

    Raises:
        UsageError, DataError: the files cannot be used as asked.
    """

    def real(spec: str, name: str) -> ImageSource:
        return ImageSource.open(
            spec,
            name=name,
            synthetic=False,
            resolution=resolution,
            allow_synthetic_as_real=allow_synthetic_as_real,
        )

    place = join_processes(device).device
    images = ImageSource.open(samples, name="samples", synthetic=True, resolution=resolution).images
    held_out = real(reference, "reference").images
    trained_on = None if train is None else real(train, "train").images
    judge = load_detector(detector, weights=detector_weights, device=place)
    if only_check:
        return Table(meta={"samples": len(images), "reference": len(held_out), "detector": judge.name})
    scores = evaluate(
        images,
        held_out,
        train=trained_on,
        detector=judge,
        classifier=classifier,
        k=k,
        interval=interval,
        device=place,
    )
    meta = {**scores.pop("meta"), "composition": scores.pop("composition"), "versions": versions()}
    rows = [
        {"metric": name, "value": value, "low": scores.get(f"{name}_low"), "high": scores.get(f"{name}_high")}
        for name, value in scores.items()
        if not name.endswith(("_low", "_high"))
    ]
    return Table(rows, {"samples": samples, "reference": reference, "train": train, **meta})
