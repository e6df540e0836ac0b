"""``nomadiff sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, Images, Out

__all__ = ["sample"]


def sample(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    out: Out,
    count: Images = 1000,
    seed: int = 0,
    source: str = "real",
    class_label: Annotated[str | None, Parameter(name=["--class-label", "--class"])] = None,
    classes: str | None = None,
    solver: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    snapshot: Images | None = None,
    vae: str | None = None,
    grid: Path | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Draw images from a model into a folder or an EDM-layout zip, with a manifest and a PNG grid.

    An example:

    nomadiff sample run/ --count 50k --seed 7 --out samples.zip

    Image i depends on (seed, i) only: other seeds give other images, any batch size the same ones. An interrupted
    drawing continues with the same command.

    Args:
        model: the model.
        out: folder or zip.
        count: How many images.
        seed: Seed of the set.
        source: Source to draw; "real" unless asked by name.
        class_label: The one class to draw from a class-conditional model, by name or number.
        classes: real, as often as the real training images have them (the default); uniform; or shares of some, such as
            cat=0.3,dog=0.1.
        solver: heun, euler or ddpm; the model's own by default.
        steps: Solver steps; the model's own by default.
        batch_size: Images solved together.
        snapshot: Take the snapshot at this many images seen.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
        grid: Where to write the PNG grid of the first images; beside --out by default.
        device: where to compute.
        dry_run: plan only.
    """
    from dataclasses import replace

    from nomadiff.data.part_folder import is_begun
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.models.dry_run import plan_sampling
    from nomadiff.models.model import Model
    from nomadiff.processes import join_processes
    from nomadiff.reports.grids import save_grid

    shown = grid or out.parent / f"{out.name}-grid.png"  # the whole name: s and s.zip are two sets
    if not dry_run:
        check_output(out, "new")
        check_output(shown, "file")
    processes = join_processes(device)
    loaded = Model.load(model, snapshot=snapshot, vae=vae, device=processes.device)
    changes: dict[str, Any] = {
        name: value for name, value in (("solver", solver), ("steps", steps)) if value is not None
    }
    sampler = replace(loaded.config.sampler, **changes)
    if dry_run:
        print(plan_sampling(loaded.config, sampler, count))
        return
    if grid is not None and grid.exists() and not is_begun(out):
        raise UsageError(f"{grid}: exists already; refusing to overwrite (choose another --grid or remove it)")
    loaded.write_samples(
        out,
        count,
        seed,
        processes=processes,
        preview=lambda first: save_grid(shown, first, columns=8),
        source=source,
        class_label=class_label,
        classes=classes,
        sampler=sampler,
        batch_size=batch_size,
    )
    if processes.is_main:
        print(
            f"samples: {out}\ngrid:    {shown}\n"
            f"next:    nomadiff evaluate {out} --reference HELD_OUT --out metrics.json"
        )
