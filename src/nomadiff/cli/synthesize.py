"""``nomadiff synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, Drawing, DrawingOptions, DryRun, Images, Out

__all__ = ["synthesize"]


def synthesize(
    *,
    source_model: Annotated[str, Parameter(name="--from", help="Model, diffusers pipeline folder, or hf:USER/NAME.")],
    count: Images,
    out: Out,
    prompts: str | None = None,
    drawing: Drawing = DrawingOptions(),  # noqa: B008 - frozen
    first: Images = 0,
    resolution: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Make a set of synthetic images with its provenance, from a model or a text-to-image pipeline.

    An example:

    nomadiff synthesize --from hf:stabilityai/stable-diffusion-3-medium-diffusers --prompts faces --count 10k
    --resolution 64 --out sd3.zip

    Image i depends on (seed, i) only. An interrupted job continues with the same command; several GPUs share it:
    torchrun --nproc-per-node 8 -m nomadiff synthesize ...

    Args:
        source_model: where images come from.
        count: How many images.
        out: Folder or zip; must be new, or half done by the same command.
        prompts: Prompt grid for text-to-image: faces, class-names, or a TOML file.
        drawing: how.
        first: Index of the first image; sets of one seed with other indices have no image in common.
        resolution: Crop and resize to this many pixels.
        guidance_scale: Classifier-free guidance of a pipeline; its own by default.
        height: Height a pipeline draws at, pixels.
        width: Width a pipeline draws at, pixels.
        dtype: fp32, bf16 or fp16 for pipelines; bf16 on a GPU by default.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.interop.generators import ImageGenerator, ModelGenerator, PipelineGenerator, is_text_to_image
    from nomadiff.interop.prompts import SHIPPED, PromptGrid
    from nomadiff.interop.synthesis import synthesize as make
    from nomadiff.models.model import Model
    from nomadiff.processes import join_processes

    if not dry_run:
        check_output(out, "new")
    processes = join_processes(device)
    generator: ImageGenerator
    if is_text_to_image(source_model):
        if prompts is None:
            raise UsageError(f"a text-to-image source needs --prompts: {', '.join(SHIPPED)}, or a TOML file")
        grid = PromptGrid.read(prompts)
        if dry_run:
            order = grid.order(drawing.seed)
            examples = "\n".join(f"  {grid.prompt(int(number)).text}" for number in order[:5])
            print(f"prompts: {len(grid):,}, {count / len(grid):.3g} images each; the first ones:\n{examples}")
            return
        generator = PipelineGenerator(
            source_model,
            grid,
            drawing.seed,
            steps=drawing.steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            batch_size=drawing.batch_size or 4,
            device=processes.device,
            dtype=dtype or ("bf16" if processes.device.type == "cuda" else "fp32"),
        )
    else:
        if misplaced := [
            f"--{name}"
            for name, value in (("prompts", prompts), ("guidance-scale", guidance_scale), ("dtype", dtype))
            if value is not None
        ]:
            raise UsageError(f"{', '.join(misplaced)}: for text-to-image pipelines; {source_model} is a model")
        model = Model.load(source_model, vae=drawing.vae, device=processes.device)
        options = drawing.of(model)
        if dry_run:
            sampler = options["sampler"]
            print(f"model: {model.config.method}, {sampler.solver} with {sampler.steps} steps, {count:,} images")
            return
        generator = ModelGenerator(model, drawing.seed, **options)
    make(generator, out, count, first=first, resolution=resolution, processes=processes)
    if processes.is_main:
        print(f"images: {out}\nnext:   nomadiff train --real PHOTOS --synthetic {Path(out).stem}={out} --out run/")
