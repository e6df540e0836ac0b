"""What the generators of StyleGAN2 and StyleGAN3 share: mapping, truncation, modulated convolution, resampling.

Written from the papers (Karras et al. 2019, arXiv:1912.04958; 2020, arXiv:2006.06676; 2021, arXiv:2106.12423). Networks
are for drawing only: they hold tensors as they lie in a file, in float32, with the gains of the equalised learning rate
multiplied in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomadiff.errors import UsageError

__all__ = ["Dense", "Mapping", "StyleGenerator", "bounded", "leaky", "modulated", "normalized", "resample"]

_TINY = 1e-8  # keeps a norm from being zero
Noise = Callable[[tuple[int, int, int]], Tensor]


def leaky(x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Leaky ReLU of slope 0.2, times a gain: the root of 2 keeps the variance of a normal input near 1."""
    return functional.leaky_relu(x, 0.2) * gain


def bounded(x: Tensor, limit: float | None) -> Tensor:
    """``x`` clipped to ``[-limit, limit]``; None leaves it."""
    return x if limit is None else x.clamp(-limit, limit)


def normalized(x: Tensor) -> Tensor:
    """Each row of ``(N, C)`` divided by the root of its mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + _TINY).rsqrt()


class Dense(nn.Module):
    """A fully connected layer.

    Args:
        weight: float32 ``(out, in)``.
        bias: float32 ``(out,)``.
        activated: whether a leaky ReLU follows.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, activated: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``(N, in)`` to ``(N, out)``."""
        x = functional.linear(x, self.weight, self.bias)
        return leaky(x) if self.activated else x


class Mapping(nn.Module):
    """From ``z``, and a class, to ``w`` (StyleGAN2, figure 2; classes as in StyleGAN2-ADA).

    Args:
        layers: the layers.
        embed: embeds the class; None for an unconditional network.
        average: mean of ``w`` over training, ``(w_dim,)``: what truncation pulls to; None if it was not kept.
    """

    average: Tensor | None

    def __init__(self, layers: Sequence[Dense], embed: Dense | None, average: Tensor | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.embed = embed
        self.register_buffer("average", average)

    def forward(self, z: Tensor, classes: Tensor | None) -> Tensor:
        """float32 ``(N, z_dim)`` and one-hot float32 ``(N, classes)`` or None to ``w``, ``(N, w_dim)``."""
        x = normalized(z)
        if self.embed is not None:
            assert classes is not None
            x = torch.cat([x, normalized(self.embed(classes))], dim=1)
        return self.layers(x)


class StyleGenerator(nn.Module):
    """A generator: mapping and synthesis.

    Args:
        mapping: the mapping network.
        synthesis: from ``w`` of every layer, float32 ``(N, ws, w_dim)``, and noise to images, float32 ``(N, C, H, W)``.
        z_dim: length of ``z``.
        ws: how many ``w`` the synthesis takes.
        classes: number of classes, 0 for an unconditional network.
        resolution: side of its images in pixels.
        channels: of its images.
        kind: "stylegan2" or "stylegan3", for messages and manifests.
    """

    def __init__(
        self,
        mapping: Mapping,
        synthesis: nn.Module,
        *,
        z_dim: int,
        ws: int,
        classes: int,
        resolution: int,
        channels: int,
        kind: str,
    ) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.z_dim, self.ws, self.classes = z_dim, ws, classes
        self.resolution, self.channels, self.kind = resolution, channels, kind

    def styles(self, z: Tensor, classes: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """``w`` of every layer.

        Args:
            z: float32 ``(N, z_dim)``.
            classes: int64 ``(N,)`` for a conditional network.
            psi: truncation: ``w`` becomes ``average + psi (w - average)``; 1 leaves it.
            cutoff: only the first layers are truncated, this many; None truncates all.

        Returns:
            float32 ``(N, ws, w_dim)``.

        Raises:
            UsageError: truncation of a network that does not know its average.
        """
        one_hot = functional.one_hot(classes, self.classes).to(z.dtype) if classes is not None else None
        w = self.mapping(z, one_hot)
        styles = w[:, None].expand(-1, self.ws, -1)
        if psi == 1:
            return styles
        if self.mapping.average is None:
            raise UsageError("this generator does not know its average w: it cannot be truncated (--psi 1)")
        truncated = self.mapping.average.lerp(w, psi)
        first = self.ws if cutoff is None else min(cutoff, self.ws)
        return torch.cat([truncated[:, None].expand(-1, first, -1), styles[:, first:]], dim=1)

    @torch.no_grad()
    def forward(
        self,
        z: Tensor,
        classes: Tensor | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: Noise | None = None,
        const: bool = True,
    ) -> Tensor:
        """Images, float32 ``(N, C, H, W)``, mostly in [-1, 1].

        Args:
            z, classes, psi, cutoff: as for :meth:`styles`.
            noise: draws fresh noise, float32 ``(N, 1, H, W)`` for a shape ``(1, H, W)``; StyleGAN3 has no noise.
            const: without ``noise``, use the noise stored with the network rather than none.

        Raises:
            UsageError: as :meth:`styles`.
        """
        return self.synthesis(self.styles(z, classes, psi, cutoff), noise, const)


def modulated(
    convolution: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True
) -> Tensor:
    """A convolution whose kernel is scaled for each sample (StyleGAN2, equations 1 and 3).

    To scale a kernel's inputs is to scale the image's channels, and to normalise its outputs is to scale the result's:
    one kernel serves the whole batch, and a sample does not depend on its neighbours.

    Args:
        convolution: from images ``(N, in, H, W)`` and the kernel to images ``(N, out, H', W')``.
        x: images.
        weight: kernel ``(out, in, k, k)``.
        style: scales, ``(N, in)``.
        demodulate: normalise each output channel by the norm of its scaled kernel.
    """
    x = convolution(x * style[:, :, None, None], weight)
    if demodulate:
        power = functional.linear(style.square(), weight.square().sum(dim=(2, 3)))
        x = x * (power + _TINY).rsqrt()[:, :, None, None]
    return x


def resample(x: Tensor, kernel: Tensor | None, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Put zeros between pixels, pad, filter, and keep every ``down``-th pixel, in both directions.

    Args:
        x: images ``(N, C, H, W)``.
        kernel: filter: ``(taps,)`` for both directions, or ``(taps, taps)``; None does not filter. A sum of 1 keeps
            brightness, whatever ``up`` is.
        up: ``up - 1`` zeros follow each pixel.
        down: one in ``down`` pixels stays.
        pad: pixels of zeros before and behind, counted after the zeros came in; negative crops.
    """
    if kernel is None:
        kernel = x.new_ones(1)
    if kernel.ndim == 2:
        return _filtered(x, kernel, (up, up), (down, down), (*pad, *pad))
    rows = _filtered(x, kernel[None, :], (1, up), (1, down), (*pad, 0, 0))
    return _filtered(rows, kernel[:, None], (up, 1), (down, 1), (0, 0, *pad))


def _filtered(
    x: Tensor, kernel: Tensor, up: tuple[int, int], down: tuple[int, int], pad: tuple[int, int, int, int]
) -> Tensor:
    """One pass of :func:`resample`: ``pad`` is left, right, top, bottom, the rest rows before columns."""
    height, width = kernel.shape
    channels = x.shape[1]
    if up != (1, 1):
        # a transposed convolution is the full convolution of the image with its zeros, but for the last ones
        each = (kernel * (up[0] * up[1])).expand(channels, 1, height, width)
        x = functional.conv_transpose2d(x, each, stride=up, groups=channels)
        spare = (width - 1, width - up[1], height - 1, height - up[0])
        x = functional.pad(x, [have - more for have, more in zip(pad, spare)])
        return x[:, :, :: down[0], :: down[1]]
    x = functional.pad(x, list(pad)) if any(pad) else x
    if height == width == 1:
        return (x * kernel)[:, :, :: down[0], :: down[1]]
    each = kernel.flip(0, 1).expand(channels, 1, height, width)
    return functional.conv2d(x, each, stride=down, groups=channels)
