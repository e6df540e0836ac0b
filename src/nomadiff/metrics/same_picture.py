"""Are two images one picture: saved again, resized, or cropped a little?

Both are brought to 32x32, and one is laid over the other by the shift and stretch (of each axis) that leave the least
difference in brightness, found by Gauss-Newton steps from coarse to fine. Then the fine detail must agree, and what is
left must look like what saving leaves: small everywhere, and spread out. A difference gathered in one place is another
drawing (a face of another colour, a hand of a clock). Thresholds were chosen by ``benchmarks/near_duplicates.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

__all__ = ["SIDE", "Agreement", "agreement", "is_same", "thumbnails"]

SIDE = 32
LARGEST_STRETCH, LARGEST_SHIFT = 0.1, 0.12  # of the side, and of half the side: crops by 5 % need half of it
STAGES = ((3, 3), (1, 4))  # how often both are smoothed, and how many steps are taken
TOGETHER = 256  # pairs compared at a time
LEAST_CORRELATION = 0.9
MOST_LIGHT, MOST_COLOUR = 8.0, 28.0  # grey levels, mean of 3x3: JPEG at quality 60 leaves less in most images
MOST_GATHERED_LIGHT, MOST_GATHERED_COLOUR = 3.0, 4.0  # times the mean: what saving leaves lies at all edges
MOST_BESIDE_EDGES = 0.32  # of the contrast around
CLOSE_CORRELATION, CLOSE_DIFFERENCE = 0.99, 3.0  # detail that agrees so well may differ more at single places:
CLOSE_COLOUR, CLOSE_GATHERED_COLOUR, CLOSE_BESIDE_EDGES = 30.0, 3.6, 0.4  # JPEG at quality 60 of strong edges
FLAT_CORRELATION, FLAT_DIFFERENCE = (
    0.5,
    0.8,
)  # saving drowns the detail of flat images: the rest is near
FLAT_LIGHT, FLAT_COLOUR, FLAT_STRETCH = 2.0, 2.5, 0.04  # everywhere, and in its place


class Agreement(NamedTuple):
    """How far pairs of images agree once one lies over the other; float32 ``(P,)`` each.

    Attributes:
        correlation: of fine detail in brightness, in [-1, 1]; 0 where there is none.
        difference: root mean square difference in brightness, in grey levels (of 255), after light smoothing.
        light, colour: the largest difference of 3x3 pixels, in grey levels.
        colour_difference: as ``difference``, of both colour channels.
        beside_edges: the largest difference of 3x3 pixels in brightness, relative to the contrast around it.
        stretch: how much larger the first shows the picture than the second, of the side; 0 for uncropped images.
    """

    correlation: Tensor
    difference: Tensor
    light: Tensor
    colour: Tensor
    colour_difference: Tensor
    beside_edges: Tensor
    stretch: Tensor


def thumbnails(images: Tensor) -> Tensor:
    """Images uint8 ``(N, C, H, W)``, C 1 or 3, as uint8 ``(N, 3, 32, 32)``."""
    parts = []
    for block in images.split(512):
        small = block.float().expand(-1, 3, -1, -1)
        if tuple(small.shape[2:]) != (SIDE, SIDE):
            small = interpolate(small, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        parts.append(small.round_().to(torch.uint8))
    return torch.cat(parts)


def in_light_and_colour(small: Tensor) -> Tensor:
    """RGB uint8 ``(N, 3, H, W)`` as brightness and two colour differences, float32 of the same shape."""
    red, green, blue = small.float().unbind(1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([light, 0.564 * (blue - light), 0.713 * (red - light)], 1)


def agreement(first: Tensor, second: Tensor) -> Agreement:
    """Compare images pair by pair: thumbnails uint8 ``(P, 3, 32, 32)`` each, P at least 1."""
    pairs = zip(first.split(TOGETHER), second.split(TOGETHER))
    parts = [_agreement(in_light_and_colour(a), in_light_and_colour(b)) for a, b in pairs]
    return Agreement(*(torch.cat(column) for column in zip(*parts)))


def is_same(found: Agreement) -> Tensor:
    """Which pairs are one picture: bool ``(P,)``."""
    close = (found.correlation >= CLOSE_CORRELATION) & (found.difference <= CLOSE_DIFFERENCE)
    flat = (
        (found.correlation >= FLAT_CORRELATION)
        & (found.difference <= FLAT_DIFFERENCE)
        & (found.light <= FLAT_LIGHT)
        & (found.colour <= FLAT_COLOUR)
        & (found.stretch <= FLAT_STRETCH)
    )
    usual = _within(found, MOST_COLOUR, MOST_GATHERED_COLOUR, MOST_BESIDE_EDGES)
    wider = _within(found, CLOSE_COLOUR, CLOSE_GATHERED_COLOUR, CLOSE_BESIDE_EDGES)
    spread = found.light <= MOST_GATHERED_LIGHT * (found.difference + 0.5)
    return spread & (((found.correlation >= LEAST_CORRELATION) & usual) | (close & wider) | flat)


def _within(found: Agreement, colour: float, gathered_colour: float, beside_edges: float) -> Tensor:
    """Where what is left is small, and not gathered in one place."""
    return (
        (found.light <= MOST_LIGHT)
        & (found.colour <= colour)
        & (found.colour <= gathered_colour * (found.colour_difference + 0.5))
        & (found.beside_edges <= beside_edges)
    )


def _agreement(first: Tensor, second: Tensor) -> Agreement:
    place = _alignment(first[:, :1], second[:, :1])
    first, second = _smooth(first), _smooth(second)
    moved, seen = _moved(second, place, "bicubic")
    count = seen.sum((1, 2, 3)).clamp(min=1)
    rest = (first - moved) * seen
    squares = rest.square().sum((2, 3)) / count[:, None]
    light, other = first[:, :1], moved[:, :1]
    slopes = torch.stack([*_slopes(light), *_slopes(other)])
    contrast = slopes.square().sum(0) / 2
    around = avg_pool2d(contrast, 7, 1, padding=3, count_include_pad=False).sqrt()
    patches = avg_pool2d(rest, 3, 1, padding=1).abs()
    return Agreement(
        _correlation(_detail(light), _detail(other), seen, count),
        squares[:, 0].sqrt(),
        patches[:, 0].amax((1, 2)),
        patches[:, 1:].amax((1, 2, 3)),
        squares[:, 1:].sum(1).sqrt(),
        (patches[:, :1] / (8 + around)).amax((1, 2, 3)),
        (place[:, 0::2] - 1).abs().amax(1),
    )


def _alignment(first: Tensor, second: Tensor) -> Tensor:
    """Stretch and shift of x, and of y, that lay ``second`` over ``first``: float32 ``(P, 4)``, sides being [-1, 1]."""
    place = first.new_tensor([1.0, 0.0, 1.0, 0.0]).repeat(len(first), 1)
    along = _coordinates(first)
    for smoothings, steps in STAGES:
        a, b = first, second
        for _ in range(smoothings):
            a, b = _smooth(a), _smooth(b)
        best, tried = torch.full_like(place[:, 0], torch.inf), place
        for step in range(steps + 1):
            moved, seen = _moved(b, tried, "bilinear")
            rest = (a - moved) * seen
            error = rest.square().sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)
            better = error < best
            best = torch.where(better, error, best)
            place = torch.where(better[:, None], tried, place)
            if step == steps:
                break
            x, y = (SIDE / 2 * slope * seen for slope in _slopes(moved))
            change = torch.stack([x * along, x, y * along[:, None], y], 1).flatten(2)
            normal = change @ change.transpose(1, 2)
            # damped: flat images leave the shift open
            normal = normal + torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 50)
            move = torch.linalg.solve(normal, change @ rest.flatten(1)[..., None])[..., 0]
            tried = tried + move.clamp(-0.1, 0.1)
            stretch = tried[:, 0::2].clamp(1 - LARGEST_STRETCH, 1 + LARGEST_STRETCH)
            shift = tried[:, 1::2].clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
            tried = torch.stack([stretch, shift], 2).flatten(1)
    return place


def _moved(images: Tensor, place: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Images laid in place, and where they can be compared: not at the rims, beyond which smoothing had to guess."""
    along = _coordinates(images)
    x = (along * place[:, 0, None] + place[:, 1, None])[:, None].expand(-1, SIDE, -1)
    y = (along * place[:, 2, None] + place[:, 3, None])[:, :, None].expand(-1, -1, SIDE)
    rim = 1 - 3 / SIDE
    seen = ((x.abs() <= rim) & (y.abs() <= rim)).float()[:, None]
    seen[..., [0, -1], :] = 0
    seen[..., [0, -1]] = 0
    moved = grid_sample(images, torch.stack([x, y], -1), mode=mode, padding_mode="border", align_corners=False)
    return moved, seen


def _coordinates(like: Tensor) -> Tensor:
    """Middles of the pixels of one side, on which the edges are -1 and 1."""
    return (torch.arange(SIDE, device=like.device) + 0.5) / SIDE * 2 - 1


def _smooth(images: Tensor) -> Tensor:
    """Binomial filter of 3x3."""
    channels = images.shape[1]
    kernel = images.new_tensor([0.25, 0.5, 0.25]).expand(channels, 1, 1, 3)
    images = conv2d(pad(images, (1, 1, 0, 0), mode="replicate"), kernel, groups=channels)
    return conv2d(pad(images, (0, 0, 1, 1), mode="replicate"), kernel.transpose(2, 3), groups=channels)


def _slopes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Grey levels a pixel, in x and in y."""
    framed = pad(images, (1, 1, 1, 1), mode="replicate")
    return (
        (framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]) / 2,
        (framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1]) / 2,
    )


def _detail(images: Tensor) -> Tensor:
    return images - avg_pool2d(images, 9, 1, padding=4, count_include_pad=False)


def _correlation(a: Tensor, b: Tensor, seen: Tensor, count: Tensor) -> Tensor:
    a, b = ((side - (side * seen).sum((2, 3), keepdim=True) / count[:, None, None, None]) * seen for side in (a, b))
    size = (a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))).sqrt()
    return (a * b).sum((1, 2, 3)) / (size + 1e-3)
