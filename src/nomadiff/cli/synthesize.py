"""``nomadiff synthesize``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.options import Device, Drawing, DrawingOptions, DryRun, Images, Out

__all__ = ["synthesize"]

_PIPELINE, _MODEL, _STYLEGAN = "text-to-image pipeline", "model", "StyleGAN"
_FOR = {  # the sources that an option is for; the others are for all
    "prompts": (_PIPELINE,),
    "guidance_scale": (_PIPELINE,),
    "dtype": (_PIPELINE,),
    "height": (_PIPELINE,),
    "width": (_PIPELINE,),
    "steps": (_PIPELINE, _MODEL),
    "source": (_MODEL,),
    "precision": (_MODEL,),
    "vae": (_MODEL,),
    "class_label": (_MODEL, _STYLEGAN),
    "classes": (_MODEL, _STYLEGAN),
    "psi": (_STYLEGAN,),
    "psi_cutoff": (_STYLEGAN,),
    "noise": (_STYLEGAN,),
}


def synthesize(
    *,
    source_model: Annotated[
        str, Parameter(name="--from", help="Model, diffusers pipeline folder, hf:USER/NAME, or StyleGAN pickle.")
    ],
    count: Images,
    out: Out,
    prompts: str | None = None,
    drawing: Drawing = DrawingOptions(),  # noqa: B008 - frozen
    first: Images = 0,
    resolution: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    psi: float | None = None,
    psi_cutoff: int | None = None,
    noise: str | None = None,
    dtype: str | None = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Make a set of synthetic images with its provenance, from a model, a text-to-image pipeline or a StyleGAN.

    An example:

    nomadiff synthesize --from hf:stabilityai/stable-diffusion-3-medium-diffusers --prompts faces --count 10k
    --resolution 64 --out sd3.zip

    Image i depends on (seed, i) only. An interrupted job continues with the same command; several GPUs share it:
    torchrun --nproc-per-node 8 -m nomadiff synthesize ...

    With --seed 0 image i of a StyleGAN is that of its authors' seed i; its classes are drawn uniformly unless told.

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
        psi: Truncation of a StyleGAN; 1, the default, draws what it learned, 0.7 is nearer to its average image.
        psi_cutoff: Truncate only this many of its first layers.
        noise: Noise of a StyleGAN2: const (the default), random or none.
        dtype: fp32, bf16 or fp16 for pipelines; bf16 on a GPU by default.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.errors import DataError, UsageError
    from nomadiff.files import check_output
    from nomadiff.interop.gan_cards import GAN_CARDS
    from nomadiff.interop.generators import ImageGenerator, ModelGenerator, PipelineGenerator, is_text_to_image
    from nomadiff.interop.prompts import SHIPPED, PromptGrid
    from nomadiff.interop.stylegan_generator import StyleGANGenerator, is_stylegan
    from nomadiff.interop.synthesis import synthesize as make
    from nomadiff.models.foreign import foreign
    from nomadiff.models.model import Model
    from nomadiff.processes import join_processes

    if not dry_run:
        check_output(out, "new")
    kind = _MODEL
    if is_stylegan(source_model):
        kind = _STYLEGAN
    elif is_text_to_image(source_model, prompts):
        kind = _PIPELINE
    elif (reason := foreign(source_model)) is not None:
        raise DataError(reason)
    given: dict[str, Any] = {
        **{name: value for name, value in asdict(drawing).items() if value != getattr(DrawingOptions, name)},
        "prompts": prompts,
        "guidance_scale": guidance_scale,
        "dtype": dtype,
        "height": height,
        "width": width,
        "psi": psi,
        "psi_cutoff": psi_cutoff,
        "noise": noise,
    }
    for name, value in given.items():
        if value is not None and kind not in _FOR.get(name, (kind,)):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for a {' or a '.join(_FOR[name])}; {source_model} is a {kind}")
    processes = join_processes(device)
    generator: ImageGenerator
    if kind == _STYLEGAN:
        if dry_run and (source_model in GAN_CARDS or "://" in source_model):
            return _plan(f"StyleGAN: to be downloaded, {count:,} images")
        if source_model in GAN_CARDS and processes.is_main:
            print(f"licence: {GAN_CARDS[source_model].licence}")
        generator = StyleGANGenerator(
            source_model,
            drawing.seed,
            psi=1.0 if psi is None else psi,
            cutoff=psi_cutoff,
            noise=noise,
            class_label=drawing.class_label,
            classes=drawing.classes,
            batch_size=drawing.batch_size,
            device=processes.device,
        )
        if dry_run:
            return _plan(f"StyleGAN: {generator.summary}, {count:,} images, {generator.batch_size} at once")
    elif kind == _PIPELINE:
        if prompts is None:
            raise UsageError(f"a text-to-image source needs --prompts: {', '.join(SHIPPED)}, or a TOML file")
        grid = PromptGrid.read(prompts)
        if dry_run:
            order = grid.order(drawing.seed)
            examples = "\n".join(f"  {grid.prompt(int(number)).text}" for number in order[:5])
            return _plan(f"prompts: {len(grid):,}, {count / len(grid):.3g} images each; the first ones:\n{examples}")
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
        model = Model.load(source_model, vae=drawing.vae, device=processes.device)
        options = drawing.of(model)
        if dry_run:
            sampler = options["sampler"]
            return _plan(f"model: {model.config.method}, {sampler.solver} with {sampler.steps} steps, {count:,} images")
        generator = ModelGenerator(model, drawing.seed, **options)
    make(generator, out, count, first=first, resolution=resolution, processes=processes)
    if not processes.is_main:
        return None
    next_ = ("train", "--real", "PHOTOS", "--synthetic", f"{Path(out).stem}={out}", "--out", "run/")
    return Answer(files={"images": out}, next=next_)


def _plan(text: str) -> Answer:
    return Answer(text=text, value=facts(text))
