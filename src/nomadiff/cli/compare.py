"""``nomadiff compare``."""

from __future__ import annotations

import shlex
import sys

from nomadiff.cli.options import Device, DryRun, Mix, Out, Training, TrainingOptions

__all__ = ["compare"]


def compare(
    mix: Mix,
    options: Training = TrainingOptions(),  # noqa: B008 - frozen
    *,
    reference: str,
    out: Out,
    preset: str = "cifar10",
    method: tuple[str, ...] = ("dm", "sda", "casd"),
    seeds: tuple[int, ...] = (0, 1, 2),
    count: int = 1000,
    together: bool = False,
    class_labels: bool = False,
    detector: str = "pixels",
    detector_weights: str | None = None,
    classifier: str | None = None,
    classifier_weights: str | None = None,
    workers: int | None = None,
    allow_train_as_reference: bool = False,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Train methods (dm, sda, casd, sims, neon, ...) at equal budget over several seeds and write one report.

    An example:

    nomadiff compare --real photos/ --synthetic sdxl=generated/ --reference held-out/ --preset tiny --out study/

    Each synthetic source is compared by itself; --together trains on all of them at once. In --real-subset and
    --synthetic-subset, {seed} is replaced by each seed, so that every seed draws its own images.

    Methods that guide a base (sims, neon, source-guidance, autoguidance, discriminator-guidance; on another base than
    dm casd+sims and the like) divide the budget between two trainings, at weight 1, and bring their control: the
    base's method with the whole budget.

    Args:
        mix: sources.
        options: training.
        reference: Held-out real images that no model sees.
        out: runs, metrics.json and report.html.
        preset: cifar10, ffhq64, small32, tiny or digits.
        method: Methods to compare, as for train; once for every method.
        seeds: Seeds; once for every seed. One set of models is trained for each.
        count: Samples of every model.
        together: Train on all synthetic sources at once.
        class_labels: Condition on the images' class labels too.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        classifier: Classifier for the class composition.
        classifier_weights: File or URL of the classifier's weights; checked by SHA-256.
        workers: Models trained side by side; by default one a CPU core.
        allow_train_as_reference: Accept a reference that is the training set, or mostly.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.workflows.compare import Comparison
    from nomadiff.workflows.compare import compare as run
    from nomadiff.workflows.comparison import plan_comparison

    if options.seed is not None:
        raise UsageError("compare trains one set of models for each of --seeds; --seed is for train")
    if not dry_run:
        check_output(out, "folder")
    comparison = Comparison(
        mix=mix,
        reference=reference,
        out=out,
        methods=method,
        preset=preset,
        seeds=seeds,
        changes=options.changes(),
        together=together,
        class_labels=class_labels,
        count=count,
        detector=detector,
        detector_weights=detector_weights,
        classifier=classifier,
        classifier_weights=classifier_weights,
        workers=workers,
        allow_train_as_reference=allow_train_as_reference,
        device=device,
        command=shlex.join(["nomadiff", *sys.argv[1:]]),
    )
    if dry_run:
        print(plan_comparison(comparison))
        return
    run(comparison)
    print(f"report:  {out / 'report.html'}\nmetrics: {out / 'metrics.json'}")
