"""A U-Net of diffusers (``UNet2DModel``, DDPM's and its kin) as a network like the others.

It was trained on DDPM's discrete steps, with images shrunk as noise was added. Both are only another way to write the
same denoiser: at noise level ``sigma`` (in EDM's variables, image plus sigma times noise) the network sees
``x / sqrt(1 + sigma^2)`` and the step whose noise level that is. Solved for what EDM's preconditioning asks of a
network, nothing is lost, and everything that works on EDM's networks works on it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError, UsageError

if TYPE_CHECKING:
    from nomadiff.networks.config import NetworkConfig

__all__ = ["UNet2D", "ddpm_levels"]

SIGMA_DATA = 0.5  # the preconditioning that is undone here is EDM's with this value
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def ddpm_levels(scheduler: dict[str, Any]) -> Tensor:
    """Noise level of every training step, ``sqrt((1 - a) / a)`` with DDPM's cumulative product ``a``.

    Args:
        scheduler: a DDPM scheduler's settings: ``num_train_timesteps``, ``beta_start``, ``beta_end``,
            ``beta_schedule``, ``trained_betas``, ``rescale_betas_zero_snr``.

    Returns:
        float64 ``(steps,)``, ascending.

    Raises:
        DataError: a schedule that is not known, or has no finite noise level.
    """
    steps = int(scheduler.get("num_train_timesteps", 1000))
    first, last = float(scheduler.get("beta_start", 1e-4)), float(scheduler.get("beta_end", 0.02))
    kind = scheduler.get("beta_schedule", "linear")
    if scheduler.get("rescale_betas_zero_snr"):
        raise DataError("a schedule that ends in pure noise (rescale_betas_zero_snr) has no finite noise level")
    given = scheduler.get("trained_betas")
    if given is not None:
        betas = torch.tensor(given, dtype=torch.float64, device="cpu")
    elif kind == "linear":
        betas = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64, device="cpu") ** 2
    elif kind == "squaredcos_cap_v2":
        times = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        left = ((times + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    else:
        raise DataError(f"unknown beta_schedule '{kind}': linear, scaled_linear and squaredcos_cap_v2 are known")
    left = (1 - betas).cumprod(0)
    levels = ((1 - left) / left).sqrt()
    if len(levels) < 2 or not bool(torch.isfinite(levels).all()) or not bool((levels.diff() > 0).all()):
        raise DataError("a noise schedule must rise and stay finite")
    return levels


class _LabelTable(nn.Embedding):
    """diffusers' table of classes, read with label vectors: a sum of rows, through which gradients flow."""

    def forward(self, labels: Tensor) -> Tensor:
        return labels @ self.weight


class UNet2D(nn.Module):
    """``UNet2DModel`` behind EDM's interface; called as :class:`~nomadiff.networks.unet.UNet` is.

    Between DDPM's steps the time is interpolated in the logarithm of the noise level, and held at its ends beyond them.

    Args:
        config: architecture; ``config.settings`` holds ``{"unet": ..., "scheduler": ...}``, the configurations of
            diffusers' model and scheduler.
        label_dim: number of labels, sources or classes; the model's ``num_class_embeds``.

    Raises:
        UsageError: diffusers is not installed, or the labels do not fit the model.
        DataError: settings that diffusers or this class cannot use.
    """

    log_levels: Tensor

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise UsageError("a diffusers network needs an extra: pip install 'nomadiff[diffusers]'") from error
        self.config = config
        self.label_dim = label_dim
        settings = json.loads(config.settings)
        unet, scheduler = dict(settings["unet"]), settings["scheduler"]
        self.prediction = scheduler.get("prediction_type", "epsilon")
        if self.prediction not in PREDICTIONS:
            raise DataError(f"unknown prediction_type '{self.prediction}': {', '.join(PREDICTIONS)} are known")
        if (unet.get("num_class_embeds") or 0) != label_dim:
            raise UsageError(
                f"this diffusers network has {unet.get('num_class_embeds') or 'no'} labels, not {label_dim}"
            )
        if unet.get("class_embed_type") is not None or unet.get("time_embedding_type", "positional") != "positional":
            raise DataError("of diffusers' networks only those with positional steps and a table of classes are known")
        try:
            self.unet = UNet2DModel.from_config(unet)
        except Exception as error:  # diffusers checks its own settings, in many ways
            raise DataError(f"diffusers cannot build this network ({str(error).splitlines()[0][:200]})") from error
        if label_dim:
            self.unet.class_embedding = _LabelTable(*self.unet.class_embedding.weight.shape)
        table = ddpm_levels(scheduler).log().float().to(self.unet.conv_in.weight.device)
        self.register_buffer("log_levels", table, persistent=False)

    @property
    def dec(self) -> nn.ModuleDict:
        """Not told apart in these networks.

        Raises:
            UsageError: always.
        """
        raise UsageError("a diffusers network has no decoder that could be trained apart: train all of it")

    def label_scale(self, count: int) -> float:
        """The factor on a one-hot vector of ``count`` labels within the label vector."""
        return 1.0

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """As :meth:`nomadiff.networks.unet.UNet.forward`.

        Raises:
            UsageError: labels of another width, or an augmentation label.
        """
        if augment is not None or (0 if labels is None else labels.shape[1]) != self.label_dim:
            raise UsageError("this network takes no augmentation label, and as many labels as it was made with")
        level = (4 * noise_label.float()).exp().reshape(-1, 1, 1, 1)
        spread = (level**2 + SIGMA_DATA**2).sqrt()
        shrink = (1 + level**2).rsqrt()
        seen = x.float() * (spread * shrink)
        predicted = self.unet(seen, self.steps(4 * noise_label.float()), class_labels=labels).sample
        predicted = predicted[:, : x.shape[1]].float()  # behind it a learned variance, if there is one
        if self.prediction == "sample":
            return predicted * (spread / (level * SIGMA_DATA)) - x * (SIGMA_DATA / level)
        noise = predicted if self.prediction == "epsilon" else shrink * (predicted + level * seen)
        return x * (level / SIGMA_DATA) - noise * (spread / SIGMA_DATA)

    def steps(self, log_level: Tensor) -> Tensor:
        """The training step of a noise level, as a fraction: float32 ``(B,)`` from ``ln(sigma)``."""
        table = self.log_levels
        after = torch.searchsorted(table, log_level.contiguous()).clamp(1, len(table) - 1)
        low, high = table[after - 1], table[after]
        return after - 1 + ((log_level - low) / (high - low)).clamp(0, 1)
