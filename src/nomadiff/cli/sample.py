"""``nomadiff sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.options import Device, Drawing, DrawingOptions, DryRun, Images, Out

__all__ = ["sample"]


def sample(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors or a snapshot file.")],
    *,
    out: Out,
    count: Images = 1000,
    drawing: Drawing = DrawingOptions(),  # noqa: B008 - frozen
    solver: str | None = None,
    snapshot: Images | None = None,
    grid: Path | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Draw images from a model into a folder or an EDM-layout zip, with a manifest and a PNG grid.

    An example:

    nomadiff sample run/ --count 50k --seed 7 --out samples.zip

    Image i depends on (seed, i) only: other seeds give other images, any batch size the same ones. An interrupted
    drawing continues with the same command.

    Args:
        model: the model.
        out: folder or zip.
        count: How many images.
        drawing: how.
        solver: heun, euler or ddpm; the model's own by default.
        snapshot: Take the snapshot at this many images seen.
        grid: Where to write the PNG grid of the first images; beside --out by default.
        device: where to compute.
        dry_run: plan only.
    """
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
    loaded = Model.load(model, snapshot=snapshot, vae=drawing.vae, device=processes.device)
    options = drawing.of(loaded, solver=solver)
    if dry_run:
        plan = plan_sampling(loaded.buildable, options["sampler"], count)
        return Answer(text=plan, value=facts(plan))
    if grid is not None and grid.exists() and not is_begun(out):
        raise UsageError(f"{grid}: exists already; refusing to overwrite (choose another --grid or remove it)")
    loaded.write_samples(
        out,
        count,
        drawing.seed,
        processes=processes,
        preview=lambda first: save_grid(shown, first, columns=8),
        **options,
    )
    if not processes.is_main:
        return None
    return Answer(
        files={"samples": out, "grid": shown},
        next=("evaluate", out, "--reference", "HELD_OUT", "--out", "metrics.json"),
    )
