"""Named recipes: a network, how long and how to train it, how to sample it.

``cifar10`` and ``ffhq64`` carry the values of the CASD paper's Table 9 (and EDM's where the table is silent). The
table's "Total king 60" is read as 60 Mi (million images): 60 thousand would be 117 steps, all inside the warm-up.
``*-edm2-*`` carry those of EDM2 (Karras et al. 2024, Table 6), which SIMS starts from; their models are conditional on
the class, and ``imagenet512`` ones are models of 64 x 64 x 4 latents.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from nomadiff.errors import UsageError
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.presets import NETWORKS
from nomadiff.registry import Registry
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.settings import TrainingConfig

__all__ = ["PRESETS", "AnyPreset", "Preset", "preset_named", "presets_that_fit", "proposed_preset"]


@dataclass(frozen=True)
class Preset:
    """A recipe to start from; every value of it can be changed.

    Attributes:
        network: its resolution and channels follow the data.
        training: includes the budget.
        sampler: default sampler of the model.
        sigma_data: standard deviation of the data in [-1, 1] units, or of latents on the network's scale.
        description: what it is for.
        published: what the papers say of this setting, and why a plan differs from it; empty for settings of our own.
    """

    network: NetworkConfig
    training: TrainingConfig
    sampler: SamplerConfig
    sigma_data: float
    description: str
    published: str = ""


AnyPreset = str | Preset | type[nn.Module] | partial[nn.Module]
"""What :func:`preset_named` takes."""

_MI = 1_000_000
_NO_HOURS = "no paper gives memory or GPU hours"
_EDMS_SIZE = f"SIMS Table 1 says 280 M, which is the size of EDM2-S; {_NO_HOURS}"
_EDM2S_COST = f"102 billion multiply-adds an evaluation (EDM2 Table 2), half of the GFLOP here; {_NO_HOURS}"


def _edm2(
    network: str,
    training: TrainingConfig,
    description: str,
    published: str = "",
    attention: tuple[int, ...] | None = None,
) -> Preset:
    """EDM2: Adam's betas (0.9, 0.99), two power-function averages; sampled in 32 steps (NFE 63)."""
    config = NETWORKS[network] if attention is None else replace(NETWORKS[network], attention=attention)
    training = replace(training, adam_beta2=0.99, ema_stds=(0.05, 0.10))
    return Preset(config, training, SamplerConfig(steps=32), 0.5, description, published)


def _compact(network: str, images: str) -> Preset:
    """What a search for small photographs on a CPU found (docs/natural.md)."""
    training = TrainingConfig(
        budget=300_000,
        batch=64,
        learning_rate=2e-3,
        warmup=20_000,
        ema_half_life=20_000,
        augment=0.12,
        precision="auto",
        snapshot_every=50_000,
        log_every=5_000,
    )
    words = f"{images}, 1.2 M parameters: hours on two CPU cores, minutes on a GPU"
    return Preset(NETWORKS[network], training, SamplerConfig(steps=18), 0.5, words)


def _imagenet(batches_before_decay: int, **training: Any) -> TrainingConfig:
    """Settings common to all of EDM2's ImageNet trainings."""
    return TrainingConfig(
        batch=2048,
        lr_decay=batches_before_decay * 2048,
        precision="auto",
        snapshot_every=1 << 25,
        log_every=250_000,
        **training,
    )


def _tiny_edm2(p_mean: float, p_std: float) -> TrainingConfig:
    return TrainingConfig(
        budget=200_000,
        batch=64,
        learning_rate=0.02,
        warmup=10_000,
        lr_decay=50_000,
        p_mean=p_mean,
        p_std=p_std,
        snapshot_every=20_000,
        log_every=2_000,
    )


def _flaw(part: Any) -> str:
    return "" if isinstance(part, Preset) else "it must be a Preset"


_PRESETS = {
    "cifar10": Preset(
        NETWORKS["cifar10"],
        TrainingConfig(budget=60 * _MI, batch=512, learning_rate=1e-3, augment=0.12, precision="auto"),
        SamplerConfig(steps=18),
        0.5,
        "32x32 images, 55.7 M parameters: the papers' CIFAR-10 setting (Table 9)",
        f"55.7 M parameters (EDM), NFE 35, 60 Mi (CASD Table 9); {_EDMS_SIZE}",
    ),
    "ffhq64": Preset(
        NETWORKS["ffhq64"],
        TrainingConfig(budget=60 * _MI, batch=512, learning_rate=2e-4, augment=0.15, precision="auto"),
        SamplerConfig(steps=40),
        0.5,
        "64x64 images, 61.8 M parameters: the papers' FFHQ setting (Table 9)",
        f"61.8 M parameters (EDM), NFE 79, 60 Mi (CASD Table 9); {_EDMS_SIZE}",
    ),
    "small32": Preset(
        NETWORKS["small32"],
        TrainingConfig(
            budget=10 * _MI, batch=256, learning_rate=1e-3, warmup=_MI, augment=0.12, precision="auto", log_every=10_000
        ),
        SamplerConfig(steps=18),
        0.5,
        "32x32 images, 7 M parameters: one small GPU",
    ),
    "compact32": _compact("tiny", "images up to 32 pixels"),
    "compact64": _compact("compact64", "larger images"),
    "imagenet64-edm2-s": _edm2(
        "imagenet64-edm2-s",
        _imagenet(35_000, budget=1 << 30, learning_rate=0.0100, p_mean=-0.8, p_std=1.6),
        "64x64 images, 280 M parameters: SIMS's ImageNet-64 setting",
        f"280 M parameters, NFE 63, 1074 Mi; {_EDM2S_COST}",
    ),
    "imagenet512-edm2-s": _edm2(
        "imagenet512-edm2-s",
        _imagenet(70_000, budget=1 << 31, learning_rate=0.0100, p_mean=-0.4, p_std=1.0),
        "64x64x4 latents, 280 M parameters: SIMS's ImageNet-512 setting",
        f"280 M parameters, NFE 63, 2147 Mi; {_EDM2S_COST}; the autoencoder is counted in neither",
    ),
    "imagenet512-edm2-xs": _edm2(
        "imagenet512-edm2-xs",
        _imagenet(70_000, budget=1 << 31, learning_rate=0.0120, p_mean=-0.4, p_std=1.0),
        "64x64x4 latents, 125 M parameters",
        "125 M parameters, NFE 63, 2147 Mi; 46 billion multiply-adds an evaluation (EDM2 Table 2), half the GFLOP here",
    ),
    "imagenet512-edm2-tiny": _edm2(
        "imagenet512-edm2-tiny",
        _tiny_edm2(p_mean=-0.4, p_std=1.0),
        "latents of any size that is a multiple of 8, 4 M parameters: to see EDM2 work in latent space on a CPU",
        attention=(),
    ),
    "edm2-tiny": _edm2(
        "imagenet64-edm2-tiny",
        _tiny_edm2(p_mean=-0.8, p_std=1.6),
        "any resolution that is a multiple of 8, 4 M parameters: to see EDM2 work on a CPU",
        attention=(),
    ),
    "tiny": Preset(
        NETWORKS["tiny"],
        TrainingConfig(
            budget=200_000,
            batch=64,
            learning_rate=1e-3,
            warmup=10_000,
            ema_half_life=50_000,
            precision="auto",
            snapshot_every=20_000,
            log_every=2_000,
        ),
        SamplerConfig(steps=18),
        0.5,
        "any resolution, 1.2 M parameters: to see a run work on a CPU",
    ),
    "digits": Preset(
        NETWORKS["digits"],
        TrainingConfig(
            budget=150_000,
            batch=128,
            learning_rate=2e-3,
            warmup=10_000,
            ema_half_life=50_000,
            snapshot_every=25_000,
            log_every=2_500,
        ),
        SamplerConfig(steps=18),
        0.75,
        "8x8 digits, 0.18 M parameters: minutes on a CPU",
    ),
}

PRESETS: Registry[Preset] = Registry("preset", _flaw, _PRESETS)


def preset_named(given: AnyPreset) -> Preset:
    """A preset by its name.

    Args:
        given: its name, or ``module:qualname`` of one of your own; or a preset; or a network of your own (its class,
            that class with settings bound by ``functools.partial``, or its name), which is trained and sampled as the
            preset "tiny" is.

    Raises:
        UsageError: there is none of this name; or it is no such network, or its module was not imported.
    """
    try:
        return PRESETS.find(given)  # type: ignore[arg-type]
    except UsageError:
        if isinstance(given, str) and ":" not in given:
            raise
        tiny = PRESETS["tiny"]
        network = NetworkConfig.own(given, resolution=tiny.network.resolution)  # type: ignore[arg-type]
        return replace(tiny, network=network, description=f"{network.architecture}, a network of your own")


def presets_that_fit(resolution: int, channels: int = 3) -> list[str]:
    """The shipped presets whose network takes what is this size: images (1 or 3 channels), or latents (more)."""
    found = []
    for name, preset in _PRESETS.items():
        network = replace(preset.network, resolution=resolution, channels=channels)
        if (channels > 3) == (preset.network.channels > 3):
            with suppress(UsageError):
                network.validate()
                found.append(name)
    return found


def proposed_preset(resolution: int, channels: int, device: torch.device) -> str:
    """The preset to take where nobody has named one.

    On a GPU EDM's networks, which the papers train: ``cifar10`` up to 32 pixels and ``ffhq64`` above, or the next
    smaller one that fits. Elsewhere those that hours are enough for: ``digits`` at 8 pixels, ``compact32``
    up to 32 and ``compact64`` above (docs/natural.md). For latents EDM2's, ``imagenet512-edm2-s`` or ``-tiny``.

    Args:
        resolution: side of the images in pixels, or of the latents.
        channels: 1 or 3; of latents more.
        device: where to train.

    Raises:
        UsageError: none fits.
    """
    if channels > 3:
        order = ["imagenet512-edm2-s" if device.type == "cuda" else "imagenet512-edm2-tiny"]
    else:
        order = ["digits"] if resolution == 8 else ["compact32"] if resolution <= 32 else ["compact64", "compact32"]
        if device.type == "cuda":
            order = ["cifar10" if resolution <= 32 else "ffhq64", "small32", *order]
    fitting = presets_that_fit(resolution, channels)
    if chosen := next((name for name in order if name in fitting), None):
        return chosen
    raise UsageError(f"no preset fits a resolution of {resolution}: pass --resolution with a multiple of 16")
