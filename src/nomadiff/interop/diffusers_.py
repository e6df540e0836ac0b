"""Unconditional and class-conditional pipelines of diffusers (``DDPMPipeline`` and its kin): in, and out again.

They are read as plain files, JSON and weights; diffusers itself is needed to build the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json
from nomadiff.interop.imported import Imported
from nomadiff.interop.torch_files import read_torch_file
from nomadiff.methods.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.unet2d import SIGMA_DATA, ddpm_levels
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig

__all__ = ["HUB_PREFIX", "from_diffusers", "is_pipeline", "pipeline_folder", "write_ddpm_pipeline"]

HUB_PREFIX = "hf:"
_INDEX = "model_index.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_LARGEST_SIGMA = 160.0  # schedules that end in almost pure noise gain nothing beyond: an image is lost long before

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
        raise UsageError(f"{spec}: reading from the hub needs an extra; pip install 'nomadiff[diffusers]'") from error
    wanted = [_INDEX, "*/config.json", "*/scheduler_config.json", f"unet/{_WEIGHTS[0]}"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if not (folder / "unet" / _WEIGHTS[0]).is_file():
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, f"unet/{_WEIGHTS[1]}"]))
    except Exception as error:  # network and hub errors of several libraries
        lines = str(error).strip().splitlines()
        raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
    return folder


def from_diffusers(folder: str | Path) -> Imported:
    """Translate a pipeline of one ``UNet2DModel`` and a scheduler that was trained as DDPM is.

    Raises:
        DataError: damaged, or a pipeline of another kind.
    """
    folder = Path(folder)
    index = _settings(folder / _INDEX)
    part = index.get("unet")
    if not (isinstance(part, list) and part[-1:] == ["UNet2DModel"]) or not isinstance(index.get("scheduler"), list):
        raise DataError(
            f"{folder}: holds a {printable(index.get('_class_name'))}; pipelines of one UNet2DModel can become models, "
            "text-to-image ones are sources of images (nomadiff synthesize)"
        )
    unet = _settings(folder / "unet" / "config.json")
    scheduler = _settings(folder / "scheduler" / "scheduler_config.json")
    try:
        network = _network(unet, scheduler)
        levels = ddpm_levels(scheduler)
        weights = _weights(folder / "unet")
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
            sigma_min=float(levels[0]),
            sigma_max=min(float(levels[-1]), _LARGEST_SIGMA),
        ),
        facts={"network": "UNet2DModel", "pipeline": printable(index.get("_class_name"))},
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


def _weights(folder: Path) -> dict[str, Tensor]:
    for name in _WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                found: Any = load_file(path)
            except (SafetensorError, OSError) as error:
                raise DataError(f"unet/{name} is damaged ({error})") from error
        else:
            found = read_torch_file(path)
        if type(found) is not dict or not all(isinstance(value, Tensor) for value in found.values()):
            raise DataError(f"unet/{name} is no table of weights")
        return {_today(str(key)): _matrix(str(key), value) for key, value in found.items()}
    raise DataError(f"unet/ holds none of {', '.join(_WEIGHTS)}")


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


def write_ddpm_pipeline(model: Model, folder: str | Path) -> None:
    """Write a model that came from diffusers as a plain ``DDPMPipeline`` again: diffusers alone loads it.

    Args:
        model: a single network of architecture "unet2d".
        folder: where to; made if it is not there.

    Raises:
        UsageError: another network, or a guided model of several.
    """
    import diffusers

    config = model.config.network
    if config.architecture != "unet2d":
        raise UsageError(f"a {config.architecture} network is none of diffusers' own")
    settings = json.loads(config.settings)
    unet = diffusers.UNet2DModel.from_config(settings["unet"])
    weights = model.network.network.state_dict()
    unet.load_state_dict({name.removeprefix("unet."): value for name, value in weights.items()})
    kind = getattr(diffusers, str(settings["scheduler"].get("_class_name")), diffusers.DDPMScheduler)
    scheduler = kind.from_config(settings["scheduler"])
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
