"""The synthesis network of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423, figure 4b and appendix F)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomadiff.networks.stylegan import Dense, Noise, bounded, leaky, modulated, resample

__all__ = ["Filtered", "Fourier", "Synthesis3"]


class Fourier(nn.Module):
    """The input: plane waves of fixed frequencies on a grid that ``w`` rotates and moves.

    Args:
        place: from ``w`` to cosine and sine of the rotation and to the translation, ``(4,)``.
        frequencies: cycles per unit, ``(C, 2)``; the image is one unit wide.
        phases: cycles, ``(C,)``.
        transform: of the grid, a matrix ``(3, 3)``; the identity unless a user moved the network.
        weight: mixes the waves, ``(C, C)``.
        size: side of the grid in pixels.
        rate: pixels per unit.
        bandwidth: waves fade out between this frequency and half the rate.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor
    weight: Tensor

    def __init__(
        self,
        place: Dense,
        frequencies: Tensor,
        phases: Tensor,
        transform: Tensor,
        weight: Tensor,
        size: int,
        rate: float,
        bandwidth: float,
    ) -> None:
        super().__init__()
        self.place, self.size, self.rate, self.bandwidth = place, size, rate, bandwidth
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer("transform", transform)
        self.register_buffer("weight", weight)

    def forward(self, w: Tensor) -> Tensor:
        """float32 ``(N, w_dim)`` to features ``(N, C, size, size)``."""
        place = self.place(w)
        cosine, sine, right, down = (place / place[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        turn = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
        move = -(turn @ torch.stack([right, down], dim=1)[:, :, None])  # the picture goes right: the grid goes left
        moved = turn @ self.transform[:2, 2:] + move
        turned = turn @ self.transform[:2, :2]
        phases = self.phases + (self.frequencies @ moved)[..., 0]
        frequencies = self.frequencies @ turned
        fade = (frequencies.norm(dim=2) - self.bandwidth) / (self.rate / 2 - self.bandwidth)
        strength = (1 - fade).clamp(0, 1)
        pixels = torch.arange(self.size, device=w.device, dtype=w.dtype)
        grid = (pixels + (1 - self.size) / 2) / self.rate  # centres of pixels, 0 in the middle
        across = frequencies[:, :, :1] * grid
        along = frequencies[:, :, 1:] * grid
        waves = torch.sin(2 * math.pi * (across[:, :, None, :] + along[:, :, :, None] + phases[:, :, None, None]))
        waves = waves * strength[:, :, None, None]
        weight = self.weight / math.sqrt(self.weight.shape[1])
        return functional.conv2d(waves, weight[:, :, None, None])


class Filtered(nn.Module):
    """A modulated convolution, bias, and a leaky ReLU between two filters, at a higher resolution: without aliases.

    Args:
        style: from ``w`` to the scales of the kernel's inputs.
        weight: kernel ``(out, in, k, k)``.
        bias: ``(out,)``.
        magnitude: mean square of the inputs over training, a number.
        filters: up and down, see :func:`~nomadiff.networks.stylegan.resample`; None where there is none.
        factors: up and down.
        pad: pixels before and behind at the higher resolution.
        limit: of what leaves the leaky ReLU; None leaves it.
        colours: the last layer: to colours, linear and not demodulated.
    """

    weight: Tensor
    bias: Tensor
    input_gain: Tensor
    up: Tensor | None
    down: Tensor | None

    def __init__(
        self,
        style: Dense,
        weight: Tensor,
        bias: Tensor,
        magnitude: Tensor,
        filters: tuple[Tensor | None, Tensor | None],
        factors: tuple[int, int],
        pad: tuple[int, int],
        limit: float | None,
        colours: bool,
    ) -> None:
        super().__init__()
        self.style, self.factors, self.pad, self.limit, self.colours = style, factors, pad, limit, colours
        fan_in = weight[0].numel()
        if not colours:  # demodulation takes the scale out again; this keeps its smallest number small beside the norm
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        self._style_gain = 1 / math.sqrt(fan_in) if colours else 1.0
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("input_gain", magnitude.rsqrt())
        self.register_buffer("up", filters[0])
        self.register_buffer("down", filters[1])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features ``(N, in, H, W)`` to ``(N, out, H', W')``."""
        style = self.style(w)
        style = style * self._style_gain if self.colours else style * style.square().mean(1, keepdim=True).rsqrt()
        x = modulated(self._convolution, x, self.weight, style, demodulate=not self.colours)
        x = x * self.input_gain + self.bias[:, None, None]
        x = resample(x, self.up, up=self.factors[0], pad=self.pad)
        x = bounded(x if self.colours else leaky(x), self.limit)
        return resample(x, self.down, down=self.factors[1])

    def _convolution(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, padding=weight.shape[2] - 1)


class Synthesis3(nn.Module):
    """From ``w`` to images.

    Args:
        source: the input.
        layers: the layers, colours last.
        scale: of the images.
    """

    def __init__(self, source: Fourier, layers: Sequence[Filtered], scale: float) -> None:
        super().__init__()
        self.source, self.scale = source, scale
        self.layers = nn.ModuleList(layers)

    def forward(self, ws: Tensor, noise: Noise | None = None, const: bool = True) -> Tensor:
        """float32 ``(N, ws, w_dim)`` to images ``(N, C, H, W)``; there is no noise to be had."""
        x = self.source(ws[:, 0])
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, ws[:, number])
        return x * self.scale
