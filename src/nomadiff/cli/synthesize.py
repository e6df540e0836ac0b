"""``nomadiff synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, DryRun, Images, Out

__all__ = ["synthesize"]


def synthesize(
    *,
    source_model: Annotated[str, Parameter(name="--from", help="Model, diffusers pipeline folder, or hf:USER/NAME.")],
    count: Images,
    out: Out,
    prompts: str | None = None,
    seed: int = 0,
    first: Images = 0,
    resolution: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    source: str = "real",
    class_label: Annotated[str | None, Parameter(name=["--class-label", "--class"])] = None,
    classes: str | None = None,
    vae: str | None = None,
    batch_size: int | None = None,
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
        seed: Seed of the set.
        first: Index of the first image; sets of one seed with other indices have no image in common.
        resolution: Crop and resize to this many pixels.
        steps: Solver steps; the source's own by default.
        guidance_scale: Classifier-free guidance of a pipeline; its own by default.
        height: Height a pipeline draws at, pixels.
        width: Width a pipeline draws at, pixels.
        source: Source label of a CASD model.
        class_label: The one class to draw from a class-conditional model, by name or number.
        classes: real, as often as the real training images have them (the default); uniform; or shares of some, such as
            cat=0.3,dog=0.1.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
        batch_size: Images drawn together.
        dtype: fp32, bf16 or fp16 for pipelines; bf16 on a GPU by default.
        device: where to compute.
        dry_run: plan only.
    """
    from dataclasses import replace

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
            order = grid.order(seed)
            examples = "\n".join(f"  {grid.prompt(int(number)).text}" for number in order[:5])
            print(f"prompts: {len(grid):,}, {count / len(grid):.3g} images each; the first ones:\n{examples}")
            return
        generator = PipelineGenerator(
            source_model,
            grid,
            seed,
            steps=steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            batch_size=batch_size or 4,
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
        model = Model.load(source_model, vae=vae, device=processes.device)
        sampler = model.config.sampler if steps is None else replace(model.config.sampler, steps=steps)
        if dry_run:
            print(f"model: {model.config.method}, {sampler.solver} with {sampler.steps} steps, {count:,} images")
            return
        generator = ModelGenerator(
            model,
            seed,
            source=source,
            class_label=class_label,
            classes=classes,
            sampler=sampler,
            batch_size=batch_size,
        )
    make(generator, out, count, first=first, resolution=resolution, processes=processes)
    if processes.is_main:
        print(f"images: {out}\nnext:   nomadiff train --real PHOTOS --synthetic {Path(out).stem}={out} --out run/")
