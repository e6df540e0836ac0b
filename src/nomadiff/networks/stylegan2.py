"""The synthesis network of StyleGAN2 and StyleGAN2-ADA (Karras et al. 2019, arXiv:1912.04958, figures 2 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from nomadiff.networks.stylegan import Dense, Noise, bounded, leaky, modulated, resample

__all__ = ["Styled", "Synthesis2", "Synthesis2Block", "ToImage", "Widened"]


class Styled(nn.Module):
    """A modulated convolution, noise, bias and leaky ReLU.

    Args:
        style: from ``w`` to the scales of the kernel's inputs.
        weight: kernel ``(out, in, k, k)``.
        bias: ``(out,)``.
        smooth: for a layer that doubles the resolution, its filter; else None.
        noise: stored noise ``(H, W)``, and its strength; None without noise.
        limit: outputs are clipped to this; None leaves them.
    """

    weight: Tensor
    bias: Tensor
    smooth: Tensor | None
    const: Tensor | None
    strength: Tensor | None

    def __init__(
        self,
        style: Dense,
        weight: Tensor,
        bias: Tensor,
        smooth: Tensor | None,
        noise: tuple[Tensor, Tensor] | None,
        limit: float | None,
    ) -> None:
        super().__init__()
        self.style, self.limit = style, limit
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("smooth", smooth)
        self.register_buffer("const", noise[0] if noise else None)
        self.register_buffer("strength", noise[1] if noise else None)

    def forward(self, x: Tensor, w: Tensor, noise: Noise | None, const: bool, gain: float = 1.0) -> Tensor:
        """Images ``(N, in, H, W)`` to ``(N, out, H', W')``; the gain scales them, and the limit."""
        x = modulated(self._convolution, x, self.weight, self.style(w))
        if self.const is not None and self.strength is not None and (noise is not None or const):
            added = self.const if noise is None else noise((1, *x.shape[2:])).to(x.device)
            x = x + added * self.strength
        x = leaky(x + self.bias[:, None, None], math.sqrt(2) * gain)
        return bounded(x, None if self.limit is None else self.limit * gain)

    def _convolution(self, x: Tensor, weight: Tensor) -> Tensor:
        size = weight.shape[2]
        if self.smooth is None:
            return functional.conv2d(x, weight, padding=size // 2)
        x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        spare = self.smooth.shape[0] - size - 1  # of both sides together: the result is twice as large as the input was
        return 4 * resample(x, self.smooth, pad=((spare + 1) // 2 + 1, spare // 2 + 1))  # 3 of 4 pixels were zeros


class ToImage(nn.Module):
    """Features to colours: a modulated convolution of one pixel, not demodulated.

    Args:
        style: from ``w`` to the scales of the kernel's inputs.
        weight: kernel ``(C, in, 1, 1)``.
        bias: ``(C,)``.
        limit: outputs are clipped to this; None leaves them.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, style: Dense, weight: Tensor, bias: Tensor, limit: float | None) -> None:
        super().__init__()
        self.style, self.limit = style, limit
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features ``(N, in, H, W)`` to ``(N, C, H, W)``."""
        x = modulated(functional.conv2d, x, self.weight, self.style(w), demodulate=False)
        return bounded(x + self.bias[:, None, None], self.limit)


class Widened(nn.Module):
    """The shortcut of a residual block: a convolution of one pixel at twice the resolution, without bias.

    Args:
        weight: kernel ``(out, in, 1, 1)``.
        smooth: the filter.
        limit: outputs are clipped to this; None leaves them.
    """

    weight: Tensor
    smooth: Tensor

    def __init__(self, weight: Tensor, smooth: Tensor, limit: float | None) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("weight", weight)
        self.register_buffer("smooth", smooth)

    def forward(self, x: Tensor, gain: float) -> Tensor:
        """``(N, in, H, W)`` to ``(N, out, 2 H, 2 W)``."""
        x = doubled(functional.conv2d(x, self.weight), self.smooth)
        return bounded(x * gain, None if self.limit is None else self.limit * gain)


def doubled(x: Tensor, smooth: Tensor) -> Tensor:
    """Images of twice the resolution."""
    taps = smooth.shape[0]
    return resample(x, smooth, up=2, pad=((taps + 1) // 2, (taps - 2) // 2))


class Synthesis2Block(nn.Module):
    """The layers of one resolution.

    Args:
        layers: one at 4x4, two elsewhere, of which the first doubles the resolution.
        image: to colours; None where the block draws none.
        smooth: filter that doubles the image drawn so far.
        shortcut: of a residual block; else None.
    """

    smooth: Tensor

    def __init__(
        self, layers: Sequence[Styled], image: ToImage | None, smooth: Tensor, shortcut: Widened | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.image, self.shortcut = image, shortcut
        self.register_buffer("smooth", smooth)

    def forward(
        self, x: Tensor, drawn: Tensor | None, ws: Tensor, noise: Noise | None, const: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Features and the image drawn so far to those of this resolution; ``ws`` are its own and the next one."""
        gain = math.sqrt(0.5)
        added = None if self.shortcut is None else self.shortcut(x, gain)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            residual = added is not None and number == last
            x = layer(x, ws[:, number], noise, const, gain if residual else 1.0)
        if added is not None:
            x = added + x
        if drawn is not None:
            drawn = doubled(drawn, self.smooth)
        if self.image is not None:
            colours = self.image(x, ws[:, last + 1])
            drawn = colours if drawn is None else drawn + colours
        return x, drawn


class Synthesis2(nn.Module):
    """From ``w`` to images.

    Args:
        const: the input of the first block, ``(in, 4, 4)``.
        blocks: from 4x4 to the resolution of the images.
    """

    const: Tensor

    def __init__(self, const: Tensor, blocks: Sequence[Synthesis2Block]) -> None:
        super().__init__()
        self.register_buffer("const", const)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, ws: Tensor, noise: Noise | None, const: bool) -> Tensor:
        """float32 ``(N, ws, w_dim)`` to images ``(N, C, H, W)``."""
        x = self.const.expand(len(ws), -1, -1, -1)
        drawn: Tensor | None = None
        first = 0
        for block in self.blocks:
            assert isinstance(block, Synthesis2Block)
            x, drawn = block(x, drawn, ws[:, first:], noise, const)
            first += len(block.layers)
        assert drawn is not None
        return drawn
