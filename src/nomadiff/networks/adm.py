"""The ADM U-Net (Dhariwal and Nichol 2021) as trained by EDM on ImageNet-64 (Karras et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.layers import PositionalEmbedding, UNetBlock, check_condition, group_norm

__all__ = ["ADM"]


def _uniform(module: nn.Module) -> None:
    """Weights and biases uniform within one over the square root of the fan-in."""
    bound = 1 / math.sqrt(module.weight[0].numel())  # type: ignore[index]
    nn.init.uniform_(module.weight, -bound, bound)  # type: ignore[arg-type]
    nn.init.uniform_(module.bias, -bound, bound)  # type: ignore[arg-type]


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class ADM(nn.Module):
    """ADM U-Net.

    It differs from :class:`~nomadiff.networks.ddpmpp.DDPMpp` in its blocks (the embedding scales and shifts the
    normalised activations, attention has heads of 64 channels) and in where the label enters (behind the noise level's
    two layers). Embedding parameters are ``map_*``, the encoder's ``enc.*``, the decoder's ``dec.*`` and ``out_*``;
    names and shapes are those of EDM's published networks.

    A label vector counts by which of its entries are above zero: ADM gives every label the same scale.

    Args:
        config: architecture; ``config.architecture`` is "adm".
        label_dim: width of the label vector (sources + classes), 0 without labels.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.label_dim = label_dim
        width = config.model_channels
        embedding = width * config.channel_mult_embedding

        self.map_noise = PositionalEmbedding(width, endpoint=False, sine_first=False)
        if config.augment_dim:
            self.map_augment = nn.Linear(config.augment_dim, width, bias=False)
            _zero(self.map_augment)
        self.map_layer0 = nn.Linear(width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        _uniform(self.map_layer0)
        _uniform(self.map_layer1)
        if label_dim:
            self.map_label = nn.Linear(label_dim, embedding, bias=False)
            nn.init.normal_(self.map_label.weight)

        def block(channels_in: int, channels_out: int, attention: bool = False, **named: str) -> UNetBlock:
            return UNetBlock(
                channels_in,
                channels_out,
                embedding,
                init=_uniform,
                init_zero=_zero,
                init_attention=_uniform,
                heads=channels_out // config.channels_per_head if attention else 0,
                dropout=config.dropout,
                eps=1e-5,
                skip_scale=1.0,
                adaptive=True,
                project_resampled=False,
                **named,  # type: ignore[arg-type]
            )

        levels = list(zip(config.level_resolutions, config.channel_mult))
        self.enc = nn.ModuleDict()
        skips = [width * config.channel_mult[0]]
        for level, (res, mult) in enumerate(levels):
            if level == 0:
                self.enc[f"{res}x{res}_conv"] = nn.Conv2d(config.channels, skips[-1], 3, padding=1)
                _uniform(self.enc[f"{res}x{res}_conv"])
            else:
                self.enc[f"{res}x{res}_down"] = block(skips[-1], skips[-1], resample="down")
                skips.append(skips[-1])
            for index in range(config.blocks):
                self.enc[f"{res}x{res}_block{index}"] = block(skips[-1], width * mult, res in config.attention)
                skips.append(width * mult)

        self.dec = nn.ModuleDict()
        channels = skips[-1]
        for level, (res, mult) in reversed(list(enumerate(levels))):
            if level == len(levels) - 1:
                self.dec[f"{res}x{res}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{res}x{res}_in1"] = block(channels, channels)
            else:
                self.dec[f"{res}x{res}_up"] = block(channels, channels, resample="up")
            for index in range(config.blocks + 1):
                joined = channels + skips.pop()
                self.dec[f"{res}x{res}_block{index}"] = block(joined, width * mult, res in config.attention)
                channels = width * mult
        self.out_norm = group_norm(channels, eps=1e-5)
        self.out_conv = nn.Conv2d(channels, config.channels, 3, padding=1)
        _zero(self.out_conv)

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Predict from a noisy image; arguments, result and errors as in ``DDPMpp.forward``."""
        emb = self.embed(noise_label, labels, augment)
        return self.decode(self.encode(x, emb), emb)

    def embed(self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The embedding every block reads, ``(B, model_channels * channel_mult_embedding)``."""
        check_condition(labels, self.label_dim, augment, self.config.augment_dim)
        emb = self.map_noise(noise_label)
        if augment is not None:
            emb = emb + self.map_augment(augment)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if labels is not None:
            emb = emb + self.map_label((labels > 0).to(labels.dtype))
        return F.silu(emb)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The output of every encoder layer, first to last: what :meth:`decode` reads."""
        skips: list[Tensor] = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else layer(x, emb)
            skips.append(x)
        return skips

    def decode(self, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """The network's output from the encoder's; ``skips`` is not changed, so another decoder may read it too."""
        remaining = list(skips)
        x = remaining[-1]
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, remaining.pop()], dim=1) if "_block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))
