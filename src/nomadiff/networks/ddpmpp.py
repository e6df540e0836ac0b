"""The DDPM++ and NCSN++ U-Nets (Song et al. 2021) as trained by EDM (Karras et al. 2022).

They are written in the three parts of the CASD paper, which uses DDPM++.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.layers import (
    FourierEmbedding,
    Init,
    PositionalEmbedding,
    UNetBlock,
    check_condition,
    fir_kernel,
    group_norm,
)

__all__ = ["DDPMpp"]


def _xavier(module: nn.Module, gain: float = 1.0) -> None:
    """Glorot's uniform weights times ``gain``; biases start at zero."""
    nn.init.xavier_uniform_(module.weight, gain=gain)  # type: ignore[arg-type]
    if module.bias is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class _ResidualDown(nn.Conv2d):
    """NCSN++'s shortcut from the image to each lower level: a 3 x 3 convolution, then the filter (1, 3, 3, 1), halved.

    The convolution runs two pixels beyond the border, so that the filter needs no border of its own.
    """

    kernel: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=2)
        self.register_buffer("kernel", fir_kernel((1, 3, 3, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, padding=self.padding)
        kernel = self.kernel.expand(self.out_channels, 1, -1, -1)
        return F.conv2d(x, kernel, self.bias, stride=2, groups=self.out_channels)


class DDPMpp(nn.Module):
    """DDPM++ or NCSN++ U-Net, ``f(R(x), e(sigma, labels))`` in the words of the CASD paper (appendix A.2).

    * ``e``, the embedding, :meth:`embed`: parameters ``map_*``. The source label enters here alone: a linear layer
      gives it the width of the noise embedding (128 in the presets), the two are added, and a two-layer SiLU MLP gives
      the embedding (512) that every block reads.
    * ``R``, the representation, is the first convolution, ``enc.<res>x<res>_conv``; it and the rest of the encoder
      (``enc.*``) are :meth:`encode`.
    * ``f``, the U-Net: the encoder's blocks and the decoder, ``dec.*``, :meth:`decode`.

    :meth:`encode` and :meth:`decode` can be called apart, so one encoder can serve two decoders. Parameter names and
    shapes are those of EDM's published networks.

    NCSN++ differs in four things: random Fourier frequencies of the noise level instead of fixed ones, a noise
    embedding twice as wide, the filter (1, 3, 3, 1) for resampling, and a shortcut from the image to every level of the
    encoder (``enc.*_aux_residual``).

    Args:
        config: architecture; ``config.architecture`` is "ddpmpp" or "ncsnpp".
        label_dim: width of the label vector (sources + classes), 0 without labels.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.label_dim = label_dim
        width = config.model_channels
        embedding = width * config.channel_mult_embedding
        ncsnpp = config.architecture == "ncsnpp"
        noise_width = width * (2 if ncsnpp else 1)
        init: Init = _xavier
        init_zero: Init = partial(_xavier, gain=1e-5)

        self.map_noise: nn.Module
        if ncsnpp:
            self.map_noise = FourierEmbedding(noise_width)
        else:
            self.map_noise = PositionalEmbedding(noise_width, endpoint=True, sine_first=True)
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise_width)
            init(self.map_label)
        if config.augment_dim:
            self.map_augment = nn.Linear(config.augment_dim, noise_width, bias=False)
            init(self.map_augment)
        self.map_layer0 = nn.Linear(noise_width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        init(self.map_layer0)
        init(self.map_layer1)

        block = partial(
            UNetBlock,
            embedding_channels=embedding,
            init=init,
            init_zero=init_zero,
            init_attention=partial(_xavier, gain=math.sqrt(0.2)),
            taps=(1, 3, 3, 1) if ncsnpp else (1, 1),
            dropout=config.dropout,
        )
        levels = list(zip(config.level_resolutions, config.channel_mult))
        self.enc = nn.ModuleDict()
        skips = [width]
        shortcut = config.channels
        for level, (res, mult) in enumerate(levels):
            if level == 0:
                self.enc[f"{res}x{res}_conv"] = nn.Conv2d(config.channels, width, 3, padding=1)
                init(self.enc[f"{res}x{res}_conv"])
            else:
                self.enc[f"{res}x{res}_down"] = block(skips[-1], skips[-1], resample="down")
                skips.append(skips[-1])
                if ncsnpp:
                    self.enc[f"{res}x{res}_aux_residual"] = _ResidualDown(shortcut, skips[-1])
                    init(self.enc[f"{res}x{res}_aux_residual"])
                    shortcut = skips[-1]
            for index in range(config.blocks):
                heads = int(res in config.attention)
                self.enc[f"{res}x{res}_block{index}"] = block(skips[-1], width * mult, heads=heads)
                skips.append(width * mult)

        self.dec = nn.ModuleDict()
        channels = skips[-1]
        for level, (res, mult) in reversed(list(enumerate(levels))):
            if level == len(levels) - 1:
                self.dec[f"{res}x{res}_in0"] = block(channels, channels, heads=1)
                self.dec[f"{res}x{res}_in1"] = block(channels, channels)
            else:
                self.dec[f"{res}x{res}_up"] = block(channels, channels, resample="up")
            for index in range(config.blocks + 1):
                heads = int(res in config.attention and index == config.blocks)
                self.dec[f"{res}x{res}_block{index}"] = block(channels + skips.pop(), width * mult, heads=heads)
                channels = width * mult
        self.dec[f"{res}x{res}_aux_norm"] = group_norm(channels, eps=1e-6)
        self.dec[f"{res}x{res}_aux_conv"] = nn.Conv2d(channels, config.channels, 3, padding=1)
        init_zero(self.dec[f"{res}x{res}_aux_conv"])

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Predict from a noisy image.

        Args:
            x: float32 ``(B, C, H, W)``, scaled to unit variance by the preconditioning.
            noise_label: float32 ``(B,)``, ``ln(sigma) / 4``.
            labels: float32 ``(B, label_dim)``, one-hot; None exactly if ``label_dim`` is 0.
            augment: float32 ``(B, augment_dim)``; None stands for "not augmented" (zeros).

        Returns:
            ``(B, C, H, W)``, float32 (or the autocast dtype).

        Raises:
            UsageError: a label is missing, unexpected or of the wrong width.
        """
        emb = self.embed(noise_label, labels, augment)
        return self.decode(self.encode(x, emb), emb)

    def embed(self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The embedding ``e``, ``(B, model_channels * channel_mult_embedding)``; arguments as in :meth:`forward`."""
        check_condition(labels, self.label_dim, augment, self.config.augment_dim)
        emb = self.map_noise(noise_label)
        if labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(self.label_dim))
        if augment is not None:
            emb = emb + self.map_augment(augment)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The output of every encoder layer, first to last: what :meth:`decode` reads. ``x`` as in :meth:`forward`."""
        skips: list[Tensor] = []
        shortcut = x
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):
                x = shortcut = (x + layer(shortcut)) * math.sqrt(0.5)
                skips[-1] = x
            else:
                x = layer(x) if name.endswith("_conv") else layer(x, emb)
                skips.append(x)
        return skips

    def decode(self, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """The network's output from the encoder's; ``skips`` is not changed, so another decoder may read it too."""
        remaining = list(skips)
        x = remaining[-1]
        for name, layer in self.dec.items():
            if name.endswith("_aux_norm"):
                x = F.silu(layer(x))
            elif name.endswith("_aux_conv"):
                x = layer(x)
            elif "_block" in name:
                x = layer(torch.cat([x, remaining.pop()], dim=1), emb)
            else:
                x = layer(x, emb)
        return x
