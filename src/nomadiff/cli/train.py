"""``nomadiff train``."""

from __future__ import annotations

from nomadiff.cli.options import Device, DryRun, Mix, Out, Training, TrainingOptions

__all__ = ["train"]


def train(
    mix: Mix,
    options: Training = TrainingOptions(),  # noqa: B008 - frozen
    *,
    out: Out,
    method: str | None = None,
    preset: str | None = None,
    class_labels: bool = False,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Train a model of the real images, with or without the help of synthetic ones.

    An example:

    nomadiff train --real photos/ --synthetic sdxl=generated/ --method casd --preset small32 --budget 5Mi --out run/

    The same command continues an interrupted run; a larger --budget extends a finished one. Several GPUs:
    torchrun --nproc-per-node 8 -m nomadiff train ...

    Args:
        mix: sources.
        options: training.
        out: The run folder.
        method: dm (real only), sda (union without labels), casd (source-conditional), or one that trains a base and
            then what guides it: sims, neon, source-guidance, autoguidance, discriminator-guidance, on another base
            casd+sims and the like. casd by default, and dm where there is no synthetic source.
        preset: Network and training to start from (see nomadiff presets); one that suits the images and the device
            by default.
        class_labels: Condition on the images' class labels too.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.methods.registry import method_named
    from nomadiff.models.dry_run import plan_training
    from nomadiff.processes import join_processes
    from nomadiff.training.presets import preset_named, proposed_preset

    if not dry_run:
        check_output(out, "folder")
    chosen = method or ("casd" if mix.synthetic else "dm")
    kind = method_named(chosen)
    if preset is not None:
        preset_named(preset)  # a wrong name is told before the images are read
    sources = mix.open()
    if chosen != (method or "casd"):
        print("method: dm, as there is no --synthetic source")
    if preset is None:
        preset = proposed_preset(sources.resolution, sources.channels, join_processes(device).device)
        print(f"preset: {preset}, which suits these images and this device (others: --preset)")
    algorithm = kind(preset, class_labels=class_labels, **options.changes())
    if dry_run:
        recipe = algorithm.recipe(sources)
        print(plan_training(recipe, algorithm.preset.published, sources.sources))
        if note := algorithm.budget_note(recipe):
            print(f"trainings:   {note}")
        return
    model = algorithm.fit(sources, out, device=device)
    if join_processes(device).is_main:
        print(f"model: {model.path}\nnext:  nomadiff sample {out} --count 1000 --out samples.zip")
