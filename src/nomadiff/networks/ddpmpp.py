"""The DDPM++ and NCSN++ U-Nets (Song et al. 2021) as trained by EDM (Karras et al. 2022).

They are written in the three parts of the CASD paper, which uses DDPM++.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.layers import (
    FourierEmbedding,
    PositionalEmbedding,
    UNetBlock,
    check_condition,
    fir_kernel,
    group_norm,
)
from nomadiff.networks.unet import UNet, layout

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


class DDPMpp(UNet):
    """DDPM++ or NCSN++ U-Net, ``f(R(x), e(sigma, labels))`` in the words of the CASD paper (appendix A.2).

    * ``e``, the embedding, :meth:`embed`: parameters ``map_*``. The source label enters here alone: a linear layer
      gives it the width of the noise embedding (128 in the presets), the two are added, and a two-layer SiLU MLP gives
      the embedding (512) that every block reads.
    * ``R``, the representation, is the first convolution, ``enc.<res>x<res>_conv``; it and the rest of the encoder
      (``enc.*``) are :meth:`encode`.
    * ``f``, the U-Net: the encoder's blocks and the decoder, ``dec.*``, :meth:`decode`.

    Parameter names and shapes are those of EDM's published networks.

    NCSN++ differs in four things: random Fourier frequencies of the noise level instead of fixed ones, a noise
    embedding twice as wide, the filter (1, 3, 3, 1) for resampling, and a shortcut from the image to every level of the
    encoder (``enc.*_aux_residual``).

    Args:
        config: architecture; ``config.architecture`` is "ddpmpp" or "ncsnpp".
        label_dim: width of the label vector (sources + classes), 0 without labels.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__(config, label_dim)
        ncsnpp = config.architecture == "ncsnpp"
        width = config.model_channels
        embedding = width * config.channel_mult_embedding
        noise_width = width * (2 if ncsnpp else 1)

        self.map_noise: nn.Module
        if ncsnpp:
            self.map_noise = FourierEmbedding(noise_width)
        else:
            self.map_noise = PositionalEmbedding(noise_width, endpoint=True, sine_first=True)
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise_width)
            _xavier(self.map_label)
        if config.augment_dim:
            self.map_augment = nn.Linear(config.augment_dim, noise_width, bias=False)
            _xavier(self.map_augment)
        self.map_layer0 = nn.Linear(noise_width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        _xavier(self.map_layer0)
        _xavier(self.map_layer1)

        block = partial(
            UNetBlock,
            embedding_channels=embedding,
            init=_xavier,
            init_zero=partial(_xavier, gain=1e-5),
            init_attention=partial(_xavier, gain=math.sqrt(0.2)),
            taps=(1, 3, 3, 1) if ncsnpp else (1, 1),
            dropout=config.dropout,
        )
        encoder, decoder = layout(config, first=width, attention_in_every_block=False)
        size = self._size
        pixels = config.channels * config.patch**2
        self.enc[f"{size}_conv"] = nn.Conv2d(pixels, width, 3, padding=1)
        _xavier(self.enc[f"{size}_conv"])
        shortcut = config.channels
        for layer in encoder:
            self.enc[layer.name] = block(
                layer.channels_in, layer.channels_out, resample=layer.resample, heads=int(layer.attention)
            )
            if ncsnpp and layer.resample:
                name = layer.name.replace("_down", "_aux_residual")
                self.enc[name] = _ResidualDown(shortcut, layer.channels_out)
                _xavier(self.enc[name])
                shortcut = layer.channels_out
        for layer in decoder:
            self.dec[layer.name] = block(
                layer.channels_in, layer.channels_out, resample=layer.resample, heads=int(layer.attention)
            )
        channels = decoder[-1].channels_out
        self.dec[f"{size}_aux_norm"] = group_norm(channels, eps=1e-6)
        self.dec[f"{size}_aux_conv"] = nn.Conv2d(channels, pixels, 3, padding=1)
        _xavier(self.dec[f"{size}_aux_conv"], gain=1e-5)

    def label_scale(self, count: int) -> float:
        """EDM scales its one label by ``sqrt(label_dim)``; this makes it ``sqrt(count)`` for each of several."""
        return math.sqrt(count / self.label_dim)

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
        shortcut = x = F.pixel_unshuffle(x, self.config.patch) if self.config.patch > 1 else x
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):
                x = shortcut = (x + layer(shortcut)) * math.sqrt(0.5)
                skips[-1] = x
            else:
                x = layer(x) if name.endswith("_conv") else self.block_call(layer, x, emb)
                skips.append(x)
        return skips

    @property
    def _size(self) -> str:
        """The highest level's name."""
        return f"{self.config.level_resolutions[0]}x{self.config.level_resolutions[0]}"

    def _output(self, x: Tensor) -> Tensor:
        x = self.dec[f"{self._size}_aux_conv"](self.dec[f"{self._size}_aux_norm"](x, silu=True))
        return F.pixel_shuffle(x, self.config.patch) if self.config.patch > 1 else x
