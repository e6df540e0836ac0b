"""Unconditional and class-conditional pipelines of diffusers (one ``UNet2DModel``, one scheduler): in, and out again.

They are read as plain files, JSON and weights; diffusers itself is needed to build the network.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import read_json
from nomadiff.interop.imported import Imported
from nomadiff.interop.weight_files import PATTERNS, read_weights, unwrapped
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.schedules import DDPMSteps, schedule_of
from nomadiff.networks.unet2d import SIGMA_DATA
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig

__all__ = ["HUB_PREFIX", "from_diffusers", "is_pipeline", "pipeline_folder", "write_ddpm_pipeline"]

HUB_PREFIX = "hf:"
_INDEX = "model_index.json"
_PARTS = ("unet", "scheduler")

# names that attention had before diffusers 0.12
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_pipeline(path: str | Path) -> bool:
    """Whether a folder holds a pipeline of diffusers."""
    return (Path(path) / _INDEX).is_file()


def pipeline_folder(spec: str) -> Path:
    """The local folder of a pipeline on the hub, ``hf:<user>/<name>``, downloaded unless it is there.

    Only configurations and safetensors (or, if there are none, ``.bin``) files of U-Net and scheduler are fetched.

    Raises:
        UsageError: no name, or huggingface_hub is not installed.
        DataError: it cannot be had.
    """
    name = spec.removeprefix(HUB_PREFIX)
    if not name:
        raise UsageError(f"{spec!r}: expected hf:<user>/<name>, for example hf:google/ddpm-cifar10-32")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(f"{spec}: reading from the hub needs an extra: {install_command('diffusers')}") from error
    settings = [_INDEX, "*/config.json", "*/scheduler_config.json", "unet/*.index*.json"]
    try:
        for pattern in PATTERNS:  # the first there is: a repository may hold all of them
            folder = Path(snapshot_download(name, allow_patterns=[*settings, f"unet/{pattern}"]))
            if any((folder / "unet").glob(pattern)):
                break
    except Exception as error:  # network and hub errors of several libraries
        lines = str(error).strip().splitlines()
        raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
    return folder


def from_diffusers(folder: str | Path) -> Imported:
    """Translate a pipeline of one ``UNet2DModel`` and a scheduler of :mod:`nomadiff.networks.schedules`.

    Raises:
        DataError: damaged, a scheduler that is not known, or a pipeline of another kind.
    """
    folder = Path(folder)
    index = _settings(folder / _INDEX)
    described = all(isinstance(index.get(name), list) and index[name] for name in _PARTS)
    if not described or index["unet"][-1] != "UNet2DModel":
        raise DataError(
            f"{folder}: holds a {printable(index.get('_class_name'))}; pipelines of one UNet2DModel can become models, "
            "text-to-image ones are sources of images (nomadiff synthesize)"
        )
    if others := [name for name, part in index.items() if isinstance(part, list) and any(part) and name not in _PARTS]:
        raise DataError(
            f"{folder}: has {', '.join(map(printable, others))} beside U-Net and scheduler: what its network draws is "
            "no image by itself; only pipelines of U-Net and scheduler alone can become models"
        )
    unet = _settings(folder / "unet" / "config.json")
    # the index names the class that diffusers makes; the scheduler's own file may still name the one it was saved from
    scheduler = {**_settings(folder / "scheduler" / "scheduler_config.json"), "_class_name": index["scheduler"][-1]}
    try:
        network = _network(unet, scheduler)
        schedule = schedule_of(scheduler)
        stored = unwrapped(read_weights(folder / "unet"))
        weights = {_today(name): _matrix(name, value) for name, value in stored.items()}
    except (DataError, UsageError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: {printable(str(error), 200)}") from error
    labels = unet.get("num_class_embeds")
    return Imported(
        network=network,
        weights=weights,
        classes=labels if isinstance(labels, int) else 0,
        sigma_data=SIGMA_DATA,
        sampler=SamplerConfig(
            steps=18 if network.resolution <= 32 else 40,
            sigma_min=schedule.sigma_min,
            sigma_max=schedule.sigma_max,
        ),
        facts={
            "network": "UNet2DModel",
            "pipeline": printable(index.get("_class_name")),
            "scheduler": printable(scheduler.get("_class_name")),
        },
    )


def _network(unet: dict[str, Any], scheduler: dict[str, Any]) -> NetworkConfig:
    size, channels, widths = unet.get("sample_size"), unet.get("in_channels", 3), unet.get("block_out_channels")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int) or not isinstance(channels, int):
        raise DataError("its U-Net says no square sample_size")
    if not isinstance(widths, list) or not widths or not all(isinstance(width, int) and width > 0 for width in widths):
        raise DataError("its U-Net says no block_out_channels")
    blocks = unet.get("layers_per_block", 2)
    return NetworkConfig(
        architecture="unet2d",
        resolution=size,
        channels=channels,
        model_channels=widths[0],
        channel_mult=tuple(max(width // widths[0], 1) for width in widths),
        blocks=blocks if isinstance(blocks, int) else 2,
        attention=(),
        dropout=float(unet.get("dropout") or 0.0),
        settings=json.dumps({"unet": _plain(unet), "scheduler": _plain(scheduler)}, sort_keys=True),
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without diffusers' own notes but the class."""
    return {name: value for name, value in settings.items() if not name.startswith("_") or name == "_class_name"}


def _settings(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a configuration of diffusers")
    return found


def _today(name: str) -> str:
    """The name that a parameter has in diffusers of today."""
    return re.sub(
        rf"(attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.",
        lambda match: f"{match[1]}.{_OLD_ATTENTION[match[2]]}.",
        name,
    )


def _matrix(name: str, value: Tensor) -> Tensor:
    """Attention's projections were 1 x 1 convolutions once."""
    return value[..., 0, 0] if _today(name) != name and value.ndim == 4 else value


def write_ddpm_pipeline(model: Model, folder: str | Path) -> bool:
    """Write a model that came from diffusers as a plain ``DDPMPipeline`` again: diffusers alone loads it.

    Args:
        model: a single network.
        folder: where to; made if it is not there.

    Returns:
        Whether it could: the network is diffusers' own and takes no labels, which this pipeline has none of, and its
        noise schedule is one that it samples.
    """
    config = model.config.network
    if config.architecture != "unet2d" or model.config.classes or model.config.sources:
        return False
    settings = json.loads(config.settings)
    if not isinstance(schedule_of(settings["scheduler"]), DDPMSteps):
        return False
    import diffusers

    unet = diffusers.UNet2DModel.from_config(settings["unet"])
    weights = model.network.network.state_dict()
    unet.load_state_dict({name.removeprefix("unet."): value for name, value in weights.items()})
    kind = getattr(diffusers, str(settings["scheduler"].get("_class_name")), diffusers.DDPMScheduler)
    scheduler = kind.from_config(settings["scheduler"])
    # the pipeline steps in DDPM's variables and hands a generator to the scheduler; not all of them take that
    if float(scheduler.init_noise_sigma) != 1 or "generator" not in inspect.signature(scheduler.step).parameters:
        scheduler = diffusers.DDPMScheduler.from_config(settings["scheduler"])
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return True
