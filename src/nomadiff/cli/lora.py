"""``nomadiff lora``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nomadiff.cli.answer import Answer
from nomadiff.cli.options import Device, Images, LearningRate, SkipUnreadable

__all__ = ["lora"]


def lora(
    source: Annotated[str, Parameter(help="Stable Diffusion pipeline (folder or hf:USER/NAME), or a LoRA file.")],
    *,
    out: Annotated[Path, Parameter(help="The Neon LoRA to write (safetensors); must be new.")],
    images: str | None = None,
    auxiliary: Path | None = None,
    weight: float = 1.0,
    rank: int = 8,
    budget: Images = 4000,
    batch: int = 4,
    learning_rate: LearningRate = 1e-4,
    seed: int = 0,
    skip_unreadable: SkipUnreadable = False,
    device: Device = None,
) -> Answer:
    """Improve a text-to-image checkpoint by its own images: a LoRA that steers it away from them (Neon).

    An example:

    nomadiff synthesize --from hf:stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts faces --count 2k --out own/

    nomadiff lora hf:stable-diffusion-v1-5/stable-diffusion-v1-5 --images own/ --weight 0.5 --out neon.safetensors

    The result is an ordinary LoRA: diffusers, ComfyUI and A1111 load it at strength 1; another strength scales the
    weight. Given a LoRA that another tool trained on own images, it is negated and nothing is trained.

    Args:
        source: what to improve.
        out: where to.
        images: The pipeline's own images with their prompts, written by `nomadiff synthesize`.
        auxiliary: Keep the LoRA before it is negated in this file, for SIMS with two passes a step.
        weight: Guidance weight.
        rank: Rank of the LoRA.
        budget: Images of fine-tuning.
        batch: Images a step.
        learning_rate: Learning rate.
        seed: Seed of the fine-tuning.
        skip_unreadable: leave files out.
        device: where to compute.
    """
    from inspect import signature

    from nomadiff.errors import UsageError
    from nomadiff.files import check_output, temporary_folder
    from nomadiff.interop.lora import check_neon_weight, neon_lora, train_on_set

    check_neon_weight(weight)
    check_output(out, "file")
    if auxiliary is not None:
        check_output(auxiliary, "file")
        if auxiliary.resolve() == out.resolve():
            raise UsageError(f"{out}: --out and --auxiliary are two LoRAs: give each its own file")
    if source.lower().endswith((".pt", ".pth", ".bin", ".ckpt")):
        raise UsageError(f"{source}: a LoRA is read from safetensors; save it as such with the tool that trained it")
    training: dict[str, Any] = {
        "rank": rank,
        "budget": budget,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "skip_unreadable": skip_unreadable,
    }
    if source.lower().endswith(".safetensors"):
        defaults = signature(lora).parameters
        for name, value in {"images": images, "auxiliary": auxiliary, **training}.items():
            if value != defaults[name].default:
                raise UsageError(f"a LoRA file is only negated: --{name.replace('_', '-')} is for a pipeline")
        return Answer(files={"neon LoRA": neon_lora(source, out, weight)})
    if images is None:
        raise UsageError("a pipeline needs --images: its own, written by nomadiff synthesize")
    if out.exists():
        raise UsageError(f"{out}: exists already; refusing to overwrite")
    with temporary_folder() as scratch:
        kept = auxiliary or scratch / "auxiliary.safetensors"
        trained = train_on_set(source, images, kept, device=device, **training)
        return Answer(files={"neon LoRA": neon_lora(trained, out, weight)})
