"""LoRA adapters as auxiliary models: train one on a pipeline's own images, use it for SIMS, or turn it into Neon.

A LoRA is a small difference of weights. The one that fine-tuning on own samples gives is what SIMS calls the auxiliary
(:mod:`nomadiff.interop.guider` takes it by its name); times minus the guidance weight it is Neon's merged model, ``base
+ w (base - auxiliary)``, as an ordinary adapter that every tool loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from nomadiff.data.containers import open_tree
from nomadiff.data.images import read_images
from nomadiff.data.metadata import column_in
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import atomic_path, require_regular
from nomadiff.guidance.strength import check_guidance
from nomadiff.interop.generators import load_pipeline
from nomadiff.interop.synthesis import METADATA_NAME
from nomadiff.processes import join_processes
from nomadiff.progress import progress_bar
from nomadiff.safe_pickle import printable
from nomadiff.seeding import mixed_seed
from nomadiff.training.run_folder import require_finite

__all__ = ["check_neon_weight", "negated", "neon_lora", "prompts_of", "train_lora", "train_on_set"]

_ADAPTER = "auxiliary"
_PROMPT = "text"  # the column that holds it, as synthesize and the hub have it
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]

# the second factor, which carries the sign, in the names of peft, diffusers and kohya; a bias belongs to it
_UP = re.compile(r"(\.lora_B(\.[\w-]+)?|[._]lora(_up|\.up|_linear_layer\.up)|_lora\.up)\.(weight|bias)$")
_REST = re.compile(r"(\.lora_A(\.[\w-]+)?|[._]lora(_down|\.down|_linear_layer\.down)|_lora\.down)\.weight$|\.alpha$")


def negated(weights: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The adapter of Neon's merged model: minus ``weight`` times the auxiliary's.

    Args:
        weights: a LoRA's tensors, under the names of peft, diffusers or kohya.
        weight: guidance weight w.

    Returns:
        The same tensors, the second factor of every pair scaled; their dtypes are kept.

    Raises:
        DataError: the adapter is no plain LoRA: other kinds (DoRA, LoHa, LoKr) are not linear in their numbers.
        UsageError: the weight is no number, or 0.
        NomadiffError: a number of the result is not finite: the adapter's own, or one too large for its dtype.
    """
    check_neon_weight(weight)
    if other := next((name for name in weights if not (_UP.search(name) or _REST.search(name))), None):
        raise DataError(f"holds {other}: only plain LoRA can be negated")
    pairs = sum(bool(_UP.search(name)) and name.endswith("weight") for name in weights)
    if pairs == 0 or pairs != sum(bool(_REST.search(name)) and name.endswith("weight") for name in weights):
        raise DataError("holds no pairs of LoRA factors")
    result = {
        name: (value.float() * -weight).to(value.dtype) if _UP.search(name) else value
        for name, value in weights.items()
    }
    require_finite(result, f"a LoRA of weight {weight:g}")
    return result


def check_neon_weight(weight: float) -> None:
    """Refuse a weight that makes no LoRA.

    Raises:
        UsageError: it is no number, beyond any use, or 0.
    """
    check_guidance(weight, None)
    if weight == 0:
        raise UsageError("a weight of 0 is the base itself: there is nothing to write")


def neon_lora(source: str | Path, out: str | Path, weight: float) -> Path:
    """Write the Neon LoRA of an auxiliary LoRA: loaded at strength 1 it makes the base the merged model.

    Args:
        source: safetensors file of a LoRA that was trained on the base's own samples, with any tool.
        out: safetensors file to write; must be new. Its metadata keeps the source's and adds the weight.
        weight: guidance weight w.

    Returns:
        ``out``.

    Raises:
        DataError: the file is damaged, or no plain LoRA.
        UsageError: ``out`` exists, or the weight is 0 or no number.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise UsageError(f"{out}: exists already; refusing to overwrite")
    check_neon_weight(weight)
    try:
        require_regular(source)
        with safe_open(source, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
        weights = load_file(source)
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{source}: damaged or not a safetensors file ({printable(str(error), 200)})") from error
    try:
        result = negated(weights, weight)
    except UsageError:
        raise
    except NomadiffError as error:
        raise DataError(f"{source}: {error}") from error
    about = {**metadata, "nomadiff": json.dumps({"neon_weight": weight, "auxiliary": source.name})}
    with atomic_path(out) as temporary:
        save_file({name: value.contiguous() for name, value in result.items()}, temporary, metadata=about)
    return out


def prompts_of(path: str | Path, names: Sequence[str]) -> list[str]:
    """The prompts of a set's images: the column ``text`` of its metadata.

    Args:
        path: folder or archive that :func:`~nomadiff.interop.synthesis.synthesize` wrote, or of that layout.
        names: its images, in order.

    Raises:
        UsageError: there are no metadata, or none with prompts.
        DataError: they are damaged, or an image has no prompt.
    """
    with open_tree(Path(path)) as tree:
        known = column_in(tree, _PROMPT)
    if missing := next((name for name in names if name not in known), None):
        raise DataError(f"{path}: its metadata have no prompt of {missing}")
    return [known[name] for name in names]


def train_lora(
    pipeline: Any,
    images: Tensor,
    prompts: Sequence[str],
    out: str | Path,
    *,
    rank: int = 8,
    budget: int = 4000,
    batch: int = 4,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Path:
    """Fine-tune a LoRA of a Stable Diffusion pipeline on images and prompts: the auxiliary, if they are its own.

    The attention projections of the U-Net get factors of this rank, the rest stays as it is (Adam, constant learning
    rate, the pipeline's own noise schedule and prediction). A function of its arguments; interrupted it starts anew.
    For other pipelines (SDXL, SD3, FLUX) train with diffusers' own scripts on the folder that ``nomadiff synthesize``
    writes, and give the result to :func:`neon_lora`.

    Args:
        pipeline: a ``StableDiffusionPipeline`` on its device; its U-Net is as before afterwards.
        images: uint8 ``(N, 3, S, S)``, S a multiple of the autoencoder's factor.
        prompts: one for each image.
        out: safetensors file to write, under kohya's names; must be new.
        rank: rank of the factors.
        budget: images to see in all.
        batch: images a step.
        learning_rate: Adam's.
        seed: seed of factors, order and noise.

    Returns:
        ``out``.

    Raises:
        UsageError: a setting makes no sense, peft is not installed, the pipeline is of another kind, or images do not
            fit.
        NomadiffError: the loss is not finite.
    """
    try:
        from diffusers import DDPMScheduler, StableDiffusionPipeline
        from diffusers.utils import convert_state_dict_to_kohya
        from peft import LoraConfig, get_peft_model_state_dict
    except ImportError as error:
        raise UsageError(f"LoRA needs an extra: {install_command('diffusers')}") from error
    out = Path(out)
    if min(rank, budget, batch) < 1 or not learning_rate > 0:
        raise UsageError("rank, budget and batch must be at least 1, the learning rate above 0")
    if type(pipeline) is not StableDiffusionPipeline:
        raise UsageError(
            f"a LoRA of a {type(pipeline).__name__} is trained with diffusers' own scripts; negate the result here"
        )
    if out.exists():
        raise UsageError(f"{out}: exists already; refusing to overwrite")
    if len(prompts) != len(images) or len(images) == 0 or images.shape[1] != 3:
        raise UsageError(f"need RGB images with one prompt each, got {len(images)} images and {len(prompts)} prompts")
    if images.shape[-1] % pipeline.vae_scale_factor:
        raise UsageError(f"images of {images.shape[-1]} pixels do not divide by {pipeline.vae_scale_factor}")
    unet = pipeline.unet
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(seed, 0) % (1 << 31))
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS), adapter_name=_ADAPTER)
    try:
        parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.data = parameter.data.float()
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        unet.train()
        steps = -(-budget // batch)
        with progress_bar("train LoRA", total=steps * batch) as advance:
            for step in range(steps):
                generator = torch.Generator().manual_seed(mixed_seed(seed, 1, step) % (1 << 63))
                chosen = torch.randint(len(images), (batch,), generator=generator).tolist()
                loss = _loss(pipeline, schedule, images[chosen], [prompts[index] for index in chosen], generator)
                if not bool(torch.isfinite(loss)):
                    raise NomadiffError(f"the loss is not finite after {step * batch:,} images; lower --learning-rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                advance(batch, note=f"loss {loss.item():.4g}")
        factors = get_peft_model_state_dict(unet, adapter_name=_ADAPTER)
        # kohya's names: the only ones that diffusers, ComfyUI and A1111 all read
        layers = convert_state_dict_to_kohya({f"unet.{name}": value.float().cpu() for name, value in factors.items()})
        require_finite(layers, str(out))  # the loss is checked before each step, so the last step is not
    finally:
        unet.eval()
        unet.delete_adapters(_ADAPTER)
    with atomic_path(out) as temporary:
        save_file({name: value.contiguous() for name, value in layers.items()}, temporary, metadata={"format": "pt"})
    return out


def _loss(pipeline: Any, schedule: Any, images: Tensor, prompts: list[str], generator: torch.Generator) -> Tensor:
    """The pipeline's own training objective on one batch."""
    device, dtype = pipeline.device, pipeline.unet.dtype

    def drawn(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    with torch.no_grad():
        pixels = (images.float() / 127.5 - 1).to(device, pipeline.vae.dtype)
        posterior = pipeline.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * drawn(posterior.mean.shape).to(posterior.mean)
        latents = (latents * pipeline.vae.config.scaling_factor).to(dtype)
        condition, _ = pipeline.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)
    noise = drawn(latents.shape)
    times = torch.randint(schedule.config.num_train_timesteps, (len(images),), generator=generator).to(device)
    predicted = pipeline.unet(schedule.add_noise(latents, noise, times), times, condition).sample
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, times) if velocity else noise
    return F.mse_loss(predicted.float(), target.float())


def train_on_set(
    spec: str,
    images: str | Path,
    out: str | Path,
    *,
    skip_unreadable: bool = False,
    device: str | None = None,
    **options: Any,
) -> Path:
    """:func:`train_lora` for a pipeline and a set by their names.

    Args:
        spec: folder of the pipeline, or ``hf:<user>/<name>``.
        images: folder or zip with images and ``metadata.jsonl``.
        out: safetensors file to write; must be new.
        skip_unreadable: leave out images that cannot be read, and name them.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        **options: as for :func:`train_lora`.

    Raises:
        UsageError, DataError, NomadiffError: as :func:`train_lora`, and if pipeline or set cannot be read.
    """
    found = read_images(images, skip_unreadable=skip_unreadable)
    if found.names is None:
        raise UsageError(f"{images}: an array has no {METADATA_NAME} with prompts; give a folder or a zip")
    prompts = prompts_of(images, found.names)
    pipeline = load_pipeline(spec, join_processes(device).device, torch.float32)
    return train_lora(pipeline, found.images, prompts, out, **options)
