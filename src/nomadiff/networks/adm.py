"""The ADM U-Net (Dhariwal and Nichol 2021) as trained by EDM on ImageNet-64 (Karras et al. 2022)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.layers import PositionalEmbedding, UNetBlock, check_condition, group_norm
from nomadiff.networks.unet import Layer, UNet, layout

__all__ = ["ADM"]


def _uniform(module: nn.Module) -> None:
    """Weights and biases uniform within one over the square root of the fan-in."""
    bound = 1 / math.sqrt(module.weight[0].numel())  # type: ignore[index]
    nn.init.uniform_(module.weight, -bound, bound)  # type: ignore[arg-type]
    nn.init.uniform_(module.bias, -bound, bound)  # type: ignore[arg-type]


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class ADM(UNet):
    """ADM U-Net.

    It differs from :class:`~nomadiff.networks.ddpmpp.DDPMpp` in its blocks (the embedding scales and shifts the
    normalised activations, attention has heads of 64 channels) and in where the label enters (behind the noise level's
    two layers). Embedding parameters are ``map_*``, the encoder's ``enc.*``, the decoder's ``dec.*`` and ``out_*``;
    names and shapes are those of EDM's published networks.

    Args:
        config: architecture; ``config.architecture`` is "adm".
        label_dim: width of the label vector (sources + classes), 0 without labels.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__(config, label_dim)
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

        def block(layer: Layer) -> UNetBlock:
            return UNetBlock(
                layer.channels_in,
                layer.channels_out,
                embedding,
                init=_uniform,
                init_zero=_zero,
                init_attention=_uniform,
                resample=layer.resample,
                heads=layer.channels_out // config.channels_per_head if layer.attention else 0,
                dropout=config.dropout,
                eps=1e-5,
                skip_scale=1.0,
                adaptive=True,
                project_resampled=False,
            )

        first = width * config.channel_mult[0]
        encoder, decoder = layout(config, first, attention_in_every_block=True)
        name = f"{config.resolution}x{config.resolution}_conv"
        self.enc[name] = nn.Conv2d(config.channels, first, 3, padding=1)
        _uniform(self.enc[name])
        self.enc.update({layer.name: block(layer) for layer in encoder})
        self.dec.update({layer.name: block(layer) for layer in decoder})
        channels = decoder[-1].channels_out
        self.out_norm = group_norm(channels, eps=1e-5)
        self.out_conv = nn.Conv2d(channels, config.channels, 3, padding=1)
        _zero(self.out_conv)

    def embed(self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The embedding, ``(B, model_channels * channel_mult_embedding)``; arguments as in :meth:`forward`."""
        check_condition(labels, self.label_dim, augment, self.config.augment_dim)
        emb = self.map_noise(noise_label)
        if augment is not None:
            emb = emb + self.map_augment(augment)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if labels is not None:
            emb = emb + self.map_label(labels)
        return F.silu(emb)

    def _output(self, x: Tensor) -> Tensor:
        return self.out_conv(self.out_norm(x, silu=True))
