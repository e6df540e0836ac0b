"""``nomadiff train``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.next_steps import sampling
from nomadiff.cli.options import Device, DryRun, Floor, Out
from nomadiff.cli.settings import Mix, Monitored, MonitoringOptions, Training, TrainingOptions
from nomadiff.monitoring.settings import Monitoring

__all__ = ["train"]


def train(
    mix: Mix,
    options: Training = TrainingOptions(),  # noqa: B008 - frozen
    *,
    out: Out,
    method: str | None = None,
    floor: Floor | None = None,
    preset: str | None = None,
    class_labels: bool = False,
    monitoring: Monitored = MonitoringOptions(),  # noqa: B008 - frozen
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Train a model of the real images, with or without the help of synthetic ones.

    An example:

    nomadiff train --real photos/ --synthetic sdxl=generated/ --method casd --preset small32 --budget 5Mi --out run/

    The same command continues an interrupted run; a larger --budget extends a finished one. Several GPUs:
    torchrun --nproc-per-node 8 -m nomadiff train ...

    While it runs, open report.html in the run folder: losses, samples from fixed noise, speed, time left. With
    --validation it measures the held-out loss, keeps the best snapshot (best.safetensors), and says when the model
    begins to copy. Without a terminal it prints a line a minute.

    Args:
        mix: sources.
        options: training.
        out: The run folder.
        method: dm (real only), sda (union without labels), casd (source-conditional); one that first finds out how to
            use the synthetic images: ambient (above a noise floor only), weighted (union, real share searched),
            filtered (those a discriminator takes for real); or one that trains a base and
            then what guides it: sims, neon, source-guidance, autoguidance, discriminator-guidance, on another base
            casd+sims and the like. casd by default, and dm where there is no synthetic source.
        floor: Of ambient: the noise level sigma below which no synthetic image teaches; auto, the default, finds one
            for each image.
        preset: Network and training to start from (see nomadiff presets); one that suits the images and the device
            by default.
        class_labels: Condition on the images' class labels too.
        monitoring: what to look at on the way.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.files import check_output
    from nomadiff.methods.registry import method_named
    from nomadiff.models.dry_run import plan_training
    from nomadiff.monitoring.validation import opened
    from nomadiff.processes import join_processes
    from nomadiff.training.presets import preset_named, proposed_preset
    from nomadiff.training.run_folder import images_seen_by

    if not dry_run:
        check_output(out, "folder")
    chosen = method or ("casd" if mix.synthetic else "dm")
    kind = method_named(chosen)
    if preset is not None:
        preset_named(preset)  # a wrong name is told before the images are read
    sources = mix.open()
    watched: Monitoring = opened(monitoring, mix, sources)
    if chosen != (method or "casd"):
        print("method: dm, as there is no --synthetic source")
    if preset is None:
        preset = proposed_preset(sources.resolution, sources.channels, join_processes(device).device)
        print(f"preset: {preset}, which suits these images and this device (others: --preset)")
    changes = options.changes() | ({} if floor is None else {"floor": floor})
    algorithm = kind(preset, class_labels=class_labels, **changes)
    if dry_run:
        recipe, sources, _ = algorithm.monitored(sources, watched)
        lines = [plan_training(recipe, algorithm.preset.published, sources.sources)]
        if recipe.validation is not None:
            lines.append(f"validation:  {recipe.validation.count:,} real images that are not trained on")
        if note := algorithm.budget_note(recipe):
            lines.append(f"trainings:   {note}")
        plan = "\n".join(lines)
        return Answer(text=plan, value=facts(plan))
    before = _written(out)
    model = algorithm.fit(sources, out, device=device, monitoring=watched)
    if not join_processes(device).is_main:
        return None
    seen = images_seen_by(out / algorithm.base_folder / "model.safetensors")
    told = [algorithm.found(out)]
    if before and _written(out) == before:
        told.insert(0, f"already finished at {seen:,} images: nothing to do")
    files = {"model": model.path}
    for name, file in (("report", "report.html"), ("best", "best.safetensors")):
        if (found := out / algorithm.base_folder / file).exists():
            files[name] = found
    return Answer(text="\n".join(filter(None, told)), value={"images_seen": seen}, files=files, next=sampling(out))


def _written(out: Path) -> dict[str, int | bytes]:
    """What makes a folder a model and when its weights were written; empty where it is none yet."""
    from nomadiff.files import paths_below

    guidance = out / "guidance.json"
    if not guidance.exists() and not (out / "model.safetensors").exists():
        return {}
    weights: dict[str, int | bytes] = {}
    for path in paths_below(out, "model.safetensors"):
        with suppress(FileNotFoundError):  # another process is writing it, or done with it
            weights[str(path)] = path.stat().st_mtime_ns
    return weights | ({str(guidance): guidance.read_bytes()} if guidance.exists() else {})
