"""Pieces the U-Nets share: noise embeddings, group norm, resampling, self-attention over pixels, the residual block."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.errors import UsageError

__all__ = [
    "FourierEmbedding",
    "GroupNorm",
    "Init",
    "PositionalEmbedding",
    "Resample",
    "UNetBlock",
    "attend",
    "check_condition",
    "fir_kernel",
    "group_norm",
    "has_fused_kernels",
]

Init = Callable[[nn.Module], None]


class PositionalEmbedding(nn.Module):
    """Sines and cosines of a number at geometrically spaced frequencies from 1 to 1/10000 (Ho et al. 2020).

    Args:
        channels: width of the embedding, even.
        endpoint: whether the last frequency is exactly 1/10000 (DDPM++) or one step short of it (ADM).
        sine_first: whether the sines come before the cosines (DDPM++) or after them (ADM).
    """

    frequencies: Tensor

    def __init__(self, channels: int, *, endpoint: bool, sine_first: bool) -> None:
        super().__init__()
        if torch.get_default_device().type == "meta":
            # planned, as every model is before it is loaded: arithmetic there imports torch's compiler, over a second
            frequencies = torch.empty(channels // 2)
        else:
            exponents = torch.arange(channels // 2, dtype=torch.float32) / (channels // 2 - endpoint)
            frequencies = (1 / 10000) ** exponents
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.sine_first = sine_first

    def forward(self, values: Tensor) -> Tensor:
        """Embed float32 ``(B,)`` as float32 ``(B, channels)``."""
        angles = values.float()[:, None] * self.frequencies
        parts = (angles.sin(), angles.cos())
        return torch.cat(parts if self.sine_first else parts[::-1], dim=1)


class FourierEmbedding(nn.Module):
    """Cosines and sines of a number at random frequencies, drawn once and kept with the weights (Song et al. 2021).

    Args:
        channels: width of the embedding, even.
        bandwidth: standard deviation of the frequencies.
    """

    freqs: Tensor

    def __init__(self, channels: int, bandwidth: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * bandwidth)

    def forward(self, values: Tensor) -> Tensor:
        """Embed float32 ``(B,)`` as float32 ``(B, channels)``, sines first."""
        angles = values.float()[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def check_condition(labels: Tensor | None, label_dim: int, augment: Tensor | None, augment_dim: int) -> None:
    """Check that labels are given exactly if the network has them, and an augmentation label only if it has one.

    Raises:
        UsageError: a label is missing, unexpected or of the wrong width.
    """
    given = 0 if labels is None else labels.shape[1]
    if given != label_dim:
        raise UsageError(f"this network takes a label vector of width {label_dim}, got width {given}")
    if augment is not None and augment.shape[1] != augment_dim:
        raise UsageError(f"this network takes an augmentation label of width {augment_dim}, got {augment.shape[1]}")


def group_norm(channels: int, eps: float) -> GroupNorm:
    """Group norm with at most 32 groups of at least 4 channels each.

    Raises:
        UsageError: ``channels`` cannot be divided so.
    """
    groups = max(min(32, channels // 4), 1)
    if channels % groups:
        raise UsageError(
            f"a layer of {channels} channels cannot be split into {groups} groups: "
            f"make model_channels a multiple of 32 (or a small multiple of 4)"
        )
    return GroupNorm(groups, channels, eps=eps)


class GroupNorm(nn.GroupNorm):
    """Group norm in the dtype of its input, and SiLU of it where asked.

    A GPU's autocast would make float32 of it, which moves, and keeps for the backward pass, twice the bytes; sums are
    float32 either way. A CPU's autocast leaves it as it is.
    """

    def forward(self, x: Tensor, *, silu: bool = False, added: Tensor | None = None) -> Tensor:
        """``x`` is ``(B, C, H, W)``; so is the result. ``added``, ``(B, C)``, is added to every pixel before."""
        if _is_fused(x):
            from nomadiff.networks.fused import fused_group_norm

            return fused_group_norm(x, self.num_groups, self.weight, self.bias, self.eps, silu=silu, added=added)
        x = x if added is None else x + added[:, :, None, None]
        if x.device.type == "cpu" or x.dtype == self.weight.dtype:
            y = super().forward(x)
        else:
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                y = F.group_norm(x, self.num_groups, weight, bias, self.eps)
        return F.silu(y) if silu else y


def has_fused_kernels(device: torch.device) -> bool:
    """Whether :mod:`~nomadiff.networks.fused` runs on this device, on images that lie channels last."""
    return device.type == "cuda" and _triton_is_there()


def _is_fused(x: Tensor) -> bool:
    # torch.compile fuses what it is given
    return not torch.compiler.is_compiling() and has_fused_kernels(x.device) and _lies_channels_last(x)


@cache
def _triton_is_there() -> bool:
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability() >= (7, 0)


def _lies_channels_last(x: Tensor) -> bool:
    # a tensor of torch.func does not say how it lies; torch.compile, which has none, cannot ask
    is_wrapped = not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x)
    return not is_wrapped and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


class Resample(nn.Module):
    """Halve or double the resolution with a separable filter.

    Args:
        direction: "down" or "up".
        taps: (1, 1), the mean of 2 x 2 pixels or each pixel repeated (DDPM++, ADM, EDM2), or the smoother (1, 3, 3, 1)
            with zeros beyond the border (NCSN++).
    """

    kernel: Tensor

    def __init__(self, direction: Literal["down", "up"], taps: tuple[int, ...] = (1, 1)) -> None:
        super().__init__()
        self.direction = direction
        self.is_box = taps == (1, 1)
        if not self.is_box:
            self.register_buffer("kernel", fir_kernel(taps, gain=4 if direction == "up" else 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H / 2, W / 2)`` or ``(B, C, 2 H, 2 W)``."""
        if self.is_box:
            if self.direction == "down":
                return F.avg_pool2d(x, 2)
            return F.interpolate(x, scale_factor=2, mode="nearest")
        channels = x.shape[1]
        filter_each = F.conv2d if self.direction == "down" else F.conv_transpose2d
        return filter_each(x, self.kernel.expand(channels, 1, -1, -1), stride=2, padding=1, groups=channels)


def fir_kernel(taps: tuple[int, ...], gain: float = 1) -> Tensor:
    """The two-dimensional filter ``(1, 1, n, n)`` of ``taps`` along each axis; its entries sum to ``gain``."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (gain * torch.outer(line, line) / line.sum() ** 2)[None, None]


def attend(qkv: Tensor, heads: int, normalise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Self-attention over all pixels.

    Args:
        qkv: ``(B, 3 C, H, W)``; channel ``(h * C / heads + c) * 3 + j`` is channel c of head h of query (j = 0),
            key (1) or value (2), the order of EDM's checkpoints.
        heads: number of attention heads.
        normalise: applied to queries, keys and values ``(3, B, heads, H W, C / heads)``.

    Returns:
        ``(B, C, H, W)``.
    """
    batch, channels, height, width = qkv.shape
    head_channels = channels // (3 * heads)
    pixels_first = qkv.flatten(2).mT.reshape(batch, height * width, heads, head_channels, 3)
    # the fast kernels want every token's channels next to each other in memory
    stacked = pixels_first.permute(4, 0, 2, 1, 3).contiguous()
    query, key, value = (normalise(stacked) if normalise else stacked).unbind(0)
    result = F.scaled_dot_product_attention(query, key, value)
    if _lies_channels_last(qkv):  # as convolutions want it back: a view
        return result.transpose(1, 2).reshape(batch, height, width, channels // 3).permute(0, 3, 1, 2)
    return result.transpose(2, 3).reshape(batch, channels // 3, height, width)


class _Conv2d(nn.Conv2d):
    """A convolution whose bias may be left to what follows."""

    def forward(self, x: Tensor, *, biased: bool = True) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias if biased else None)


class UNetBlock(nn.Module):
    """Residual block: norm-SiLU-(resample)-conv, embedding, norm-SiLU-dropout-conv, plus the skip; then attention.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        embedding_channels: width of the embedding.
        init: initialises convolutions and linear layers.
        init_zero: initialises the last layer of each residual branch (near zero: the block starts as its skip).
        init_attention: initialises the query-key-value layer.
        resample: "down", "up" or None.
        taps: the resampling filter, see :class:`Resample`.
        heads: attention heads, 0 for no attention.
        dropout: probability of dropping an activation before the second convolution.
        eps: epsilon of the group norms.
        skip_scale: factor on the sum of residual and skip.
        adaptive: whether the embedding scales and shifts the second norm's output (ADM) or is added before it (DDPM++).
        project_resampled: whether the skip of a resampling block has a 1 x 1 convolution even at equal width.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding_channels: int,
        *,
        init: Init,
        init_zero: Init,
        init_attention: Init,
        resample: Literal["down", "up"] | None = None,
        taps: tuple[int, ...] = (1, 1),
        heads: int = 0,
        dropout: float = 0.0,
        eps: float = 1e-6,
        skip_scale: float = math.sqrt(0.5),
        adaptive: bool = False,
        project_resampled: bool = True,
    ) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.channels_out = channels_out
        self.heads = heads
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive = adaptive
        self.resample: nn.Module = Resample(resample, taps) if resample else nn.Identity()
        self.norm0 = group_norm(channels_in, eps)
        self.conv0 = _Conv2d(channels_in, channels_out, 3, padding=1)
        self.affine = nn.Linear(embedding_channels, channels_out * (2 if adaptive else 1))
        self.norm1 = group_norm(channels_out, eps)
        self.conv1 = _Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out or (resample and project_resampled):
            self.skip = nn.Conv2d(channels_in, channels_out, 1)
            init(self.skip)
        init(self.conv0)
        init(self.affine)
        init_zero(self.conv1)
        if heads:
            self.norm2 = group_norm(channels_out, eps)
            self.qkv = nn.Conv2d(channels_out, channels_out * 3, 1)
            self.proj = _Conv2d(channels_out, channels_out, 1)
            init_attention(self.qkv)
            init_zero(self.proj)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """``x`` is ``(B, channels_in, H, W)``, ``emb`` ``(B, embedding_channels)``; gives ``(B, channels_out, ..)``."""
        skip = self.skip(self.resample(x))
        x = self.resample(self.norm0(x, silu=True))
        modulation = self.affine(emb)
        if self.adaptive:
            scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
            x = F.silu(torch.addcmul(shift, self.norm1(self.conv0(x)), scale + 1))
        elif _is_fused(x):  # the bias goes with the embedding
            x = self.norm1(self.conv0(x, biased=False), silu=True, added=modulation + self.conv0.bias)
        else:
            x = self.norm1(self.conv0(x), silu=True, added=modulation)
        x = self._joined(self.conv1, F.dropout(x, self.dropout, self.training), skip)
        if self.heads:
            x = self._joined(self.proj, attend(self.qkv(self.norm2(x)), self.heads), x)
        return x

    def _joined(self, conv: _Conv2d, x: Tensor, skip: Tensor) -> Tensor:
        """The sum of a branch's end and the skip, scaled."""
        if not _is_fused(x) or conv.bias is None:
            return (conv(x) + skip) * self.skip_scale
        from nomadiff.networks.fused import fused_residual

        x = conv(x, biased=False)
        return fused_residual(x, skip.to(x.dtype), conv.bias, self.skip_scale)
