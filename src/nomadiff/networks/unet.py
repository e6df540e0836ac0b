"""Common base of the U-Nets: the plan of their layers, and their three parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nomadiff.networks.config import NetworkConfig

__all__ = ["BlockCall", "Layer", "UNet", "call_block", "layout"]


@dataclass(frozen=True)
class Layer:
    """One residual block of a U-Net.

    Attributes:
        name: its name in EDM's checkpoints, ``<resolution>x<resolution>_<what>``.
        channels_in: channels of its input; a decoder's ``_block`` has the skip's channels among them.
        channels_out: channels of its output.
        resample: "down" or "up" if it changes the resolution.
        attention: whether it attends to all pixels.
    """

    name: str
    channels_in: int
    channels_out: int
    resample: Literal["down", "up"] | None = None
    attention: bool = False


def layout(config: NetworkConfig, first: int, attention_in_every_block: bool) -> tuple[list[Layer], list[Layer]]:
    """The residual blocks of the encoder, after its first convolution, and of the decoder, in the order they run.

    Args:
        config: architecture.
        first: channels of the first convolution's output.
        attention_in_every_block: whether all blocks of a decoder level that attends do so, or the last one alone.
    """
    levels = [
        (f"{res}x{res}", config.model_channels * mult, res in config.attention)
        for res, mult in zip(config.level_resolutions, config.channel_mult)
    ]
    encoder: list[Layer] = []
    skips = [first]
    for level, (size, channels, attention) in enumerate(levels):
        if level > 0:
            encoder.append(Layer(f"{size}_down", skips[-1], skips[-1], resample="down"))
            skips.append(skips[-1])
        for index in range(config.blocks):
            encoder.append(Layer(f"{size}_block{index}", skips[-1], channels, attention=attention))
            skips.append(channels)
    decoder: list[Layer] = []
    current = skips[-1]
    for level, (size, channels, attention) in reversed(list(enumerate(levels))):
        if level == len(levels) - 1:
            decoder.append(Layer(f"{size}_in0", current, current, attention=True))
            decoder.append(Layer(f"{size}_in1", current, current))
        else:
            decoder.append(Layer(f"{size}_up", current, current, resample="up"))
        for index in range(config.blocks + 1):
            attends = attention and (attention_in_every_block or index == config.blocks)
            decoder.append(Layer(f"{size}_block{index}", current + skips.pop(), channels, attention=attends))
            current = channels
    return encoder, decoder


BlockCall = Callable[[nn.Module, Tensor, Tensor], Tensor]


def call_block(block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    """The output of a residual block."""
    return block(x, emb)


class UNet(nn.Module):
    """A denoising U-Net in three parts: :meth:`embed`, :meth:`encode` and :meth:`decode`.

    The parts can be called apart, so one encoder can serve two decoders.

    Args:
        config: architecture.
        label_dim: width of the label vector (sources + classes), 0 without labels.

    Attributes:
        block_call: how residual blocks are called; a training may compile them, or have them computed twice. Not of the
            weights: a copy that was made before calls its blocks plainly.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.label_dim = label_dim
        self.block_call: BlockCall = call_block
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Predict from a noisy image.

        Args:
            x: float32 ``(B, C, H, W)``, scaled to unit variance by the preconditioning.
            noise_label: float32 ``(B,)``, ``ln(sigma) / 4``.
            labels: float32 ``(B, label_dim)``, one-hot vectors side by side, each times :meth:`label_scale`; None
                exactly if ``label_dim`` is 0.
            augment: float32 ``(B, augment_dim)``; None stands for "not augmented" (zeros).

        Returns:
            ``(B, C, H, W)``, float32 (or the autocast dtype).

        Raises:
            UsageError: a label is missing, unexpected or of the wrong width.
        """
        emb = self.embed(noise_label, labels, augment)
        return self.decode(self.encode(x, emb), emb)

    def label_scale(self, count: int) -> float:
        """The factor on a one-hot vector of ``count`` labels within the label vector; 1 for a vector alone."""
        return 1.0

    def embed(self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The embedding, ``(B, model_channels * channel_mult_embedding)``; arguments as in :meth:`forward`."""
        raise NotImplementedError

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The output of every encoder layer, first to last: what :meth:`decode` reads. ``x`` as in :meth:`forward`."""
        skips: list[Tensor] = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else self.block_call(layer, x, emb)
            skips.append(x)
        return skips

    def decode(self, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """The network's output from the encoder's; ``skips`` is not changed, so another decoder may read it too."""
        remaining = list(skips)
        x = remaining[-1]
        for name, layer in self.dec.items():
            if "_aux_" not in name:
                x = self.block_call(layer, self._join(x, remaining.pop()) if "_block" in name else x, emb)
        return self._output(x)

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        """A decoder block's input."""
        return torch.cat([x, skip], dim=1)

    def _output(self, x: Tensor) -> Tensor:
        """From the last decoder block to the image."""
        raise NotImplementedError
