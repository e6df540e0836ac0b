"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, "Analyzing and improving the training dynamics of
diffusion models", section 2 and appendix B: configuration G)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.layers import Resample, attend, check_condition
from nomadiff.networks.unet import Layer, UNet, layout

__all__ = ["EDM2", "MPConv", "MPFourier", "normalise"]

RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
LABEL_BALANCE = 0.5
CONCAT_BALANCE = 0.5
LARGEST_ACTIVATION = 256
UNCERTAINTY_CHANNELS = 128
EPSILON = 1e-4


def normalise(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """Scale ``x`` to root mean square 1 over ``dim`` (pixel norm and weight norm, eq. 30 and 47); any dtype."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    norm = EPSILON + norm * math.sqrt(norm.numel() / x.numel())
    return x / norm.to(x.dtype)


def _silu(x: Tensor) -> Tensor:
    """SiLU of a unit normal input scaled to unit magnitude (eq. 81)."""
    return F.silu(x) / 0.596


def _sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Weighted sum of independent unit-magnitude inputs, of unit magnitude (eq. 88)."""
    scale = 1 / math.hypot(1 - balance, balance)
    return a * ((1 - balance) * scale) + b * (balance * scale)


def _concatenate(a: Tensor, b: Tensor) -> Tensor:
    """Concatenation along channels in which both inputs contribute equally, of unit magnitude (eq. 103)."""
    channels = a.shape[1] + b.shape[1]
    scale = math.sqrt(channels) / math.hypot(1 - CONCAT_BALANCE, CONCAT_BALANCE)
    weight_a = scale * (1 - CONCAT_BALANCE) / math.sqrt(a.shape[1])
    weight_b = scale * CONCAT_BALANCE / math.sqrt(b.shape[1])
    return torch.cat([a * weight_a, b * weight_b], dim=1)


class MPFourier(nn.Module):
    """Random Fourier features of unit magnitude, drawn once and kept with the weights (eq. 75).

    Args:
        channels: width of the embedding.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Embed float32 ``(B,)`` as float32 ``(B, channels)``."""
        return math.sqrt(2) * (values.float()[:, None] * self.freqs + self.phases).cos()


class MPConv(nn.Module):
    """Convolution or linear layer without bias whose weights always have unit magnitude (eq. 47 and 66).

    Forced weight normalisation, :meth:`rescale`, in training before each forward pass of the network: it keeps the
    optimizer's effective step from shrinking as weights grow.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: side of the convolution's kernel, or None for a linear layer.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int | None = None) -> None:
        super().__init__()
        shape = (channels_out, channels_in) if kernel is None else (channels_out, channels_in, kernel, kernel)
        self.weight = nn.Parameter(torch.randn(shape))
        self._dims = tuple(range(1, len(shape)))

    @torch.no_grad()
    def rescale(self) -> None:
        """Give the stored weights unit magnitude."""
        self.weight.copy_(normalise(self.weight, self._dims))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Apply the layer to ``(B, channels_in, ...)``; ``gain`` scales the output."""
        weight = normalise(self.weight, self._dims) * (gain / math.sqrt(self.weight[0].numel()))
        weight = weight.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class _Block(nn.Module):
    """Magnitude-preserving residual block (figure 21), with self-attention if ``heads`` is above 0.

    Args:
        side: "enc" projects the input and normalises it per pixel before the residual branch; "dec" projects it after.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        *,
        side: Literal["enc", "dec"],
        resample: Literal["down", "up"] | None = None,
        heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.side = side
        self.heads = heads
        self.dropout = dropout
        self.resample: nn.Module = Resample(resample) if resample else nn.Identity()
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(channels_out if side == "enc" else channels_in, channels_out, 3)
        self.emb_linear = MPConv(embedding, channels_out)
        self.conv_res1 = MPConv(channels_out, channels_out, 3)
        self.conv_skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.conv_skip = MPConv(channels_in, channels_out, 1)
        if heads:
            self.attn_qkv = MPConv(channels_out, channels_out * 3, 1)
            self.attn_proj = MPConv(channels_out, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resample(x)
        if self.side == "enc":
            x = normalise(self.conv_skip(x), dim=1)
        residual = self.conv_res0(_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        residual = _silu(residual * scale[:, :, None, None].to(residual.dtype))
        residual = self.conv_res1(F.dropout(residual, self.dropout, self.training))
        if self.side == "dec":
            x = self.conv_skip(x)
        x = _sum(x, residual, RESIDUAL_BALANCE)
        if self.heads:
            attended = attend(self.attn_qkv(x), self.heads, normalise=lambda qkv: normalise(qkv, dim=-1))
            x = _sum(x, self.attn_proj(attended), ATTENTION_BALANCE)
        return x.clip(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


class EDM2(UNet):
    """EDM2's U-Net with its uncertainty head.

    Activations, weights and updates keep their magnitudes by construction, so the learning rate alone says how fast it
    learns. Embedding parameters are ``emb_*``, the encoder's ``enc.*``, the decoder's ``dec.*`` and ``out_*``; names
    and shapes are those of the published networks (there under ``unet.``). ``logvar_*`` is used by the loss alone, see
    :meth:`log_variance`.

    The label vector is scaled to the square root of its width, so that one label, or source and class together, are of
    unit magnitude.

    Args:
        config: architecture; ``config.architecture`` is "edm2".
        label_dim: width of the label vector (sources + classes), 0 without labels.
    """

    def __init__(self, config: NetworkConfig, label_dim: int = 0) -> None:
        super().__init__(config, label_dim)
        width = config.model_channels
        embedding = width * config.channel_mult_embedding
        first = width * config.channel_mult[0]

        self.emb_fourier = MPFourier(first)
        self.emb_noise = MPConv(first, embedding)
        if label_dim:
            self.emb_label = MPConv(label_dim, embedding)

        def block(layer: Layer, side: Literal["enc", "dec"]) -> _Block:
            return _Block(
                layer.channels_in,
                layer.channels_out,
                embedding,
                side=side,
                resample=layer.resample,
                heads=layer.channels_out // config.channels_per_head if layer.attention else 0,
                dropout=config.dropout,
            )

        encoder, decoder = layout(config, first, attention_in_every_block=True)
        # one input channel is constant 1: layers without bias need it to shift their output
        self.enc[f"{config.resolution}x{config.resolution}_conv"] = MPConv(config.channels + 1, first, 3)
        self.enc.update({layer.name: block(layer, "enc") for layer in encoder})
        self.dec.update({layer.name: block(layer, "dec") for layer in decoder})
        channels = decoder[-1].channels_out
        self.out_conv = MPConv(channels, config.channels, 3)
        self.out_gain = nn.Parameter(torch.zeros(()))

        self.logvar_fourier = MPFourier(UNCERTAINTY_CHANNELS)
        self.logvar_linear = MPConv(UNCERTAINTY_CHANNELS, 1)

    def embed(self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The embedding, ``(B, model_channels * channel_mult_embedding)``; ``augment`` must be None.

        Every pass begins here: in training mode the weights of all its layers are rescaled first. Blocks themselves
        change nothing, so that they can be compiled, and computed twice.
        """
        if self.training:
            for name, layer in self.named_modules():
                if isinstance(layer, MPConv) and not name.startswith("logvar_"):
                    layer.rescale()
        check_condition(labels, self.label_dim, augment, 0)
        emb = self.emb_noise(self.emb_fourier(noise_label))
        if labels is not None:
            given = (labels > 0).sum(dim=1, keepdim=True).clamp(min=1)
            emb = _sum(emb, self.emb_label(labels * (self.label_dim / given).sqrt()), LABEL_BALANCE)
        return _silu(emb)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The output of every encoder layer, first to last: what :meth:`decode` reads. ``x`` as in :meth:`forward`."""
        return super().encode(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), emb)

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        return _concatenate(x, skip)

    def _output(self, x: Tensor) -> Tensor:
        return self.out_conv(x, gain=self.out_gain)

    def log_variance(self, noise_label: Tensor) -> Tensor:
        """The learned uncertainty ``u(sigma)`` of the loss ``weight / e^u * error^2 + u`` (eq. 21).

        Args:
            noise_label: float32 ``(B,)``, ``ln(sigma) / 4``.

        Returns:
            float32 ``(B,)``.
        """
        if self.training:
            self.logvar_linear.rescale()
        return self.logvar_linear(self.logvar_fourier(noise_label))[:, 0]
