"""``nomadiff loop``."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, Images, Out, SkipUnreadable, Training, TrainingOptions

__all__ = ["loop"]


def loop(
    options: Training = TrainingOptions(),  # noqa: B008 - frozen
    *,
    real: str,
    reference: str,
    out: Out,
    algorithm: tuple[str, ...] = ("standard", "sims"),
    kind: str = "synthetic-augmentation",
    generations: int = 5,
    real_count: Images | None = None,
    synthetic_count: Images | None = None,
    preset: str = "cifar10",
    weight: Annotated[float | None, Parameter(name=["--weight", "-w"])] = None,
    warm_start: bool = False,
    seeds: tuple[int, ...] = (0, 1, 2),
    count: Images = 1000,
    detector: str = "pixels",
    detector_weights: str | None = None,
    resolution: int | None = None,
    allow_synthetic_as_real: bool = False,
    skip_unreadable: SkipUnreadable = False,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Train generation after generation on its predecessors' images: does it go MAD, and does an algorithm stop it?

    An example:

    nomadiff loop --real photos/ --reference held-out/ --algorithm standard --algorithm sims --preset tiny --out loops/

    The same command goes on with the generation and stage it was stopped at; with more --generations it extends
    finished loops. A distance is printed beside every ratio: a method that is bad from the start has a good ratio.

    Args:
        options: training.
        real: Real images: a folder, zip, npz or npy file, hf:NAME of a hub data set, or digits:pool.
        reference: Held-out real images that no model sees.
        out: loops, metrics.json, madness.json and report.html.
        algorithm: standard, sims, neon, source-guidance, casd (own samples as source 1), casd-provenance (told what is
            synthetic) or real-only; once for every algorithm.
        kind: synthetic-augmentation, fully-synthetic, fresh-data (new real images in every generation) or accumulation
            (all earlier generations are kept).
        generations: How many, the first on real images alone.
        real_count: Real images in a training set, drawn anew for every seed; by default all of them (fresh-data: an
            equal part for every generation).
        synthetic_count: Images each generation makes for its successors; by default as many as real ones.
        preset: cifar10, ffhq64, small32, tiny or digits.
        weight: Guidance weight of sims, neon and source-guidance; 1 by default.
        warm_start: Train every generation from its predecessor's weights instead of from scratch.
        seeds: Seeds; once for every seed. One loop of every algorithm is run for each.
        count: Samples every generation is judged by.
        detector: Feature space of the metrics: pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        resolution: Crop to a square and resize to this many pixels.
        allow_synthetic_as_real: Accept a sample set with a manifest as real.
        skip_unreadable: leave files out.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.workflows.loop import ImageLoop, plan_image_loop, run_image_loop

    if options.seed is not None:
        raise UsageError("loop runs one loop for each of --seeds; --seed is for train")
    if not dry_run:
        check_output(out, "folder")
    setting = ImageLoop(
        real=real,
        reference=reference,
        out=out,
        algorithms=algorithm,
        kind=kind,
        generations=generations,
        real_count=real_count,
        synthetic_count=synthetic_count,
        preset=preset,
        changes=options.changes(),
        weight=weight,
        warm_start=warm_start,
        seeds=seeds,
        count=count,
        detector=detector,
        detector_weights=detector_weights,
        resolution=resolution,
        allow_synthetic_as_real=allow_synthetic_as_real,
        skip_unreadable=skip_unreadable,
        device=device,
        command=shlex.join(["nomadiff", *sys.argv[1:]]),
    )
    if dry_run:
        print(plan_image_loop(setting))
        return
    table = run_image_loop(setting)
    for name, sentence in table.meta["madness"].items():
        print(f"{name}: {sentence}")
    print(f"report:  {out / 'report.html'}\nmetrics: {out / 'metrics.json'}")
