"""Non-leaky augmentation: images are moved while training, and the network is told how, so that samples are not moved.

The geometric part of adaptive discriminator augmentation (Karras et al. 2020, "Training generative adversarial networks
with limited data", appendix B) with the label that EDM gives the denoiser (Karras et al. 2022, appendix F.2). At
sampling the label is zero, "not augmented", and the network draws from the distribution of unmoved images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from nomadiff.devices import sent
from nomadiff.errors import UsageError

__all__ = ["AUGMENT_DIM", "Augment", "Motion"]

AUGMENT_DIM = 9
"""Width of the augmentation label."""

SCALE_STD = 0.2
STRETCH_STD = 0.2
SHIFT_STD = 0.125

# Cohen-Daubechies-Feauveau 9/7 low-pass filters from the centre outwards. The first doubles the resolution, the second
# halves it; both are symmetric (no shift, so flips and quarter turns stay exact) and undo each other exactly (so whole-
# pixel shifts stay exact), while the second one keeps a shrunken image from aliasing.
_UP = (1.115087052456994, 0.5912717631142470, -0.05754352622849957, -0.09127176311424948)
_DOWN = (0.6029490182363579, 0.2668641184428723, -0.07822326652898785, -0.01686411844287495, 0.02674875741080976)


@dataclass(frozen=True)
class Motion:
    """One motion for each of B images, all float32 on the CPU; zeros everywhere mean "left as it is".

    An image is mirrored, then scaled, turned, stretched and shifted, in this order, about its centre.

    Attributes:
        mirror_x: ``(B,)``, 1 where left and right are swapped.
        mirror_y: ``(B,)``, 1 where top and bottom are swapped.
        scale: ``(B,)``; the image is enlarged by ``2 ** (0.2 * scale)``.
        turn: ``(B,)``, radians counter-clockwise as seen.
        stretch: ``(B,)``; enlarged by ``2 ** (0.2 * stretch)`` along one axis and shrunk by as much across it.
        stretch_axis: ``(B,)``, radians of that axis counter-clockwise from horizontal.
        shift: ``(B, 2)``; moved right and down by 0.125 of the width and height for every unit.
    """

    mirror_x: Tensor
    mirror_y: Tensor
    scale: Tensor
    turn: Tensor
    stretch: Tensor
    stretch_axis: Tensor
    shift: Tensor

    def labels(self) -> Tensor:
        """EDM's augmentation label, float32 ``(B, 9)``; a row is zero exactly if that image is left as it is.

        In order: mirror_x, mirror_y, scale, cos(turn) - 1, sin(turn), stretch * cos(stretch_axis),
        stretch * sin(stretch_axis), shift right, shift down.
        """
        columns = (
            self.mirror_x,
            self.mirror_y,
            self.scale,
            self.turn.cos() - 1,
            self.turn.sin(),
            self.stretch * self.stretch_axis.cos(),
            self.stretch * self.stretch_axis.sin(),
        )
        return torch.cat([torch.stack(columns, dim=1), self.shift], dim=1)

    def apply(self, images: Tensor) -> Tensor:
        """Move ``images``, float32 ``(B, C, H, W)`` on any device; outside, the image is reflected."""
        mirrors = sent(torch.stack([self.mirror_x, self.mirror_y]), images.device).bool()
        for mirror, dimension in zip(mirrors, (3, 2)):
            images = torch.where(mirror.reshape(-1, 1, 1, 1), images.flip(dimension), images)
        # chosen on the CPU: no wait for a GPU
        moved = (self.labels()[:, 2:] != 0).any(dim=1).nonzero()[:, 0]
        if len(moved) == 0:
            return images
        height, width = images.shape[2:]
        inverse = sent(self._inverse(height, width)[moved], images.device)
        moved = sent(moved, images.device)
        return images.index_copy(0, moved, _warp(images[moved], inverse))

    def _inverse(self, height: int, width: int) -> Tensor:
        """Where each pixel comes from: affine maps ``(B, 3, 3)`` in pixels from the centre, x right and y down."""
        zoom = torch.exp2(SCALE_STD * self.scale)
        pull = torch.exp2(STRETCH_STD * self.stretch)
        right, down = (SHIFT_STD * self.shift * torch.tensor([width, height])).unbind(dim=1)
        # with y down, a rotation matrix of positive angle turns clockwise as seen
        return (
            _diagonal(1 / zoom, 1 / zoom)
            @ _rotation(self.turn)
            @ _rotation(-self.stretch_axis)
            @ _diagonal(1 / pull, pull)
            @ _rotation(self.stretch_axis)
            @ _translation(-right, -down)
        )


class Augment:
    """Draws a motion for every image of a batch and applies it.

    With ``probability`` p > 0, half of all images are mirrored left-right, whatever p is (EDM's rule); top-bottom
    mirroring, scaling, turning, stretching and shifting are each tried with probability p. With p = 0 nothing at all
    is done.

    Args:
        probability: p in [0, 1]; EDM uses 0.12 for CIFAR-10 and 0.15 for FFHQ.

    Raises:
        UsageError: ``probability`` is outside [0, 1].
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise UsageError(f"the augmentation probability must lie in [0, 1], got {probability}")
        self.probability = probability

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Move a batch.

        Args:
            images: float32 ``(B, C, H, W)`` in [-1, 1], on any device.
            generator: where the motions are drawn. With a CPU generator every device gets the same motions and a GPU
                is never waited for.

        Returns:
            Moved images (they may leave [-1, 1] a little where an edge overshoots) and their labels, float32
            ``(B, 9)``, on the device of ``images``.
        """
        motion = self.draw(len(images), generator)
        return motion.apply(images), sent(motion.labels(), images.device)

    def draw(self, count: int, generator: torch.Generator) -> Motion:
        """Draw ``count`` motions; always takes the same number of draws from ``generator``."""
        device = generator.device
        coins = torch.rand(8, count, generator=generator, device=device).cpu()
        angles = (torch.rand(2, count, generator=generator, device=device).cpu() * 2 - 1) * math.pi
        normal = torch.randn(4, count, generator=generator, device=device).cpu()
        tried = (coins[:5] < self.probability).float()
        return Motion(
            mirror_x=((coins[5] < 0.5) & (self.probability > 0)).float(),
            mirror_y=tried[0] * (coins[6] < 0.5),
            scale=tried[1] * normal[0],
            turn=tried[2] * angles[0],
            stretch=tried[3] * normal[1],
            stretch_axis=tried[3] * (coins[7] < 0.5) * angles[1],
            shift=(tried[4] * normal[2:]).T.contiguous(),
        )


def _warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Resample ``images`` at the coordinates that ``inverse`` gives: doubled resolution, bilinear, low-pass, halved."""
    height, width = images.shape[2:]
    up_y, down_y, y, half_y = _side(height, images.device)
    up_x, down_x, x, half_x = _side(width, images.device)
    doubled = up_y @ images @ up_x.T
    # grid_sample counts -1..1 from the first pixel's centre to the last one's
    half = torch.stack([half_x, half_y])
    a = inverse[:, None, None, :2, :] / half[:, None]
    grid = a[..., 0] * x[None, None, :, None] + a[..., 1] * y[None, :, None, None] + a[..., 2]
    sampled = F.grid_sample(doubled, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return down_y @ sampled @ down_x.T


@lru_cache(maxsize=16)
def _side(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What depends on one side of an image only; made once, since a copy to a GPU waits for it.

    Doubling ``(2 size - 1, size)`` and halving ``(size, 2 size + 7)`` as matrices, the places ``(2 size + 7,)`` in
    between in pixels from the centre, and half the side, ``()``. Doubling reflects the image about its outermost
    pixels; halving takes a margin of 4 beyond them on each side.
    """
    reach = len(_DOWN) - 1
    up = torch.zeros(2 * size - 1, size, dtype=torch.float64)
    for row in range(2 * size - 1):
        for pixel in range((row - 3) // 2, (row + 3) // 2 + 1):
            if abs(row - 2 * pixel) < len(_UP):
                up[row, _reflected(pixel, size)] += _UP[abs(row - 2 * pixel)]
    down = torch.zeros(size, 2 * size - 1 + 2 * reach, dtype=torch.float64)
    for pixel in range(size):
        for offset in range(-reach, reach + 1):
            down[pixel, 2 * pixel + offset + reach] = _DOWN[abs(offset)]
    places = torch.arange(-reach, 2 * size - 1 + reach) / 2 - (size - 1) / 2
    half = torch.tensor(max(size - 1, 1)) / 2  # a one-pixel side has only a centre
    return up.float().to(device), down.float().to(device), places.to(device), half.to(device)


def _reflected(index: int, size: int) -> int:
    """The pixel that stands at ``index`` when an image of ``size`` pixels is reflected about its outermost ones."""
    if size == 1:
        return 0
    index %= 2 * (size - 1)
    return min(index, 2 * (size - 1) - index)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=1).reshape(-1, 3, 3)
