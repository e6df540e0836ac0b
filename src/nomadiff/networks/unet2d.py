"""A U-Net of diffusers (``UNet2DModel``) as a network like the others.

Its scheduler defines its input and the meaning of its output (:mod:`nomadiff.networks.schedules`). The output is solved
exactly for the one that EDM's preconditioning expects, so everything that works on EDM's networks works on it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.networks.schedules import VarianceExploding, schedule_of

if TYPE_CHECKING:
    from nomadiff.networks.config import NetworkConfig

__all__ = ["UNet2D"]

SIGMA_DATA = 0.5  # the preconditioning that is undone here is EDM's with this value


class _LabelTable(nn.Embedding):
    """diffusers' table of classes, read with label vectors: a sum of rows, through which gradients flow."""

    def forward(self, labels: Tensor) -> Tensor:
        return labels @ self.weight


class UNet2D(nn.Module):
    """``UNet2DModel`` behind EDM's interface; called as :class:`~nomadiff.networks.unet.UNet` is.

    Args:
        config: architecture; ``config.settings`` holds ``{"unet": ..., "scheduler": ...}``, the configurations of
            diffusers' model and scheduler.
        label_dim: number of labels, sources or classes; the model's ``num_class_embeds``.

    Raises:
        UsageError: diffusers is not installed, or the labels do not fit the model.
        DataError: settings that diffusers or this class cannot use.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise UsageError(f"a diffusers network needs an extra: {install_command('diffusers')}") from error
        self.config = config
        self.label_dim = label_dim
        settings = json.loads(config.settings)
        unet = dict(settings["unet"])
        self.schedule = schedule_of(settings["scheduler"])
        _check_channels(unet, settings["scheduler"])
        if (unet.get("num_class_embeds") or 0) != label_dim:
            raise UsageError(
                f"this diffusers network has {unet.get('num_class_embeds') or 'no'} labels, not {label_dim}"
            )
        if unet.get("class_embed_type") is not None:
            raise DataError("of diffusers' networks with labels only those with a table of classes are known")
        embedding = unet.get("time_embedding_type", "positional")
        # Fourier features take the logarithm of a noise level, which only the score networks are told
        if embedding != "positional" and not (embedding == "fourier" and isinstance(self.schedule, VarianceExploding)):
            raise DataError(f"time_embedding_type {embedding!r} does not fit this scheduler: positional does")
        try:
            self.unet = UNet2DModel.from_config(unet)
        except Exception as error:  # diffusers checks its own settings, in many ways
            raise DataError(f"diffusers cannot build this network ({str(error).splitlines()[0][:200]})") from error
        if label_dim:
            self.unet.class_embedding = _LabelTable(*self.unet.class_embedding.weight.shape)
        self.schedule.to(self.unet.conv_in.weight.device)

    @property
    def dec(self) -> nn.ModuleDict:
        """Not available: these networks have no separate decoder.

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
        double = torch.float32 if x.device.type == "mps" else torch.float64
        sigma = (4 * noise_label.to(double)).exp()
        terms = self.schedule(sigma)
        spread = (sigma**2 + SIGMA_DATA**2).sqrt()
        seen = x.float() * _column(terms.scale * spread) + terms.offset
        predicted = self.unet(seen, terms.time.float(), class_labels=labels).sample
        predicted = predicted[:, : x.shape[1]].float()  # behind it a learned variance, if there is one
        # D = keep x + gain output = c_skip x + c_out F, solved for F
        kept = (terms.keep * spread - SIGMA_DATA**2 / spread) * spread / (sigma * SIGMA_DATA)
        return x.float() * _column(kept) + predicted * _column(terms.gain * spread / (sigma * SIGMA_DATA))


def _column(factors: Tensor) -> Tensor:
    """Factors ``(B,)`` as float32 ``(B, 1, 1, 1)``."""
    return factors.float().reshape(-1, 1, 1, 1)


def _check_channels(unet: dict[str, Any], scheduler: dict[str, Any]) -> None:
    """An image in, its estimate out, followed by a learned variance if the scheduler has one.

    Raises:
        DataError: anything else: a network conditioned on another image, or one that draws parts of one.
    """
    taken, given = unet.get("in_channels", 3), unet.get("out_channels", 3)
    learned = scheduler.get("variance_type") in ("learned", "learned_range")
    if given != (2 * taken if learned else taken):
        what = " with a learned variance" if learned else ""
        raise DataError(f"its U-Net takes {taken} channels and gives {given}: no denoiser of images{what}")
