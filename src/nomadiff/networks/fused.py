"""What lies between convolutions, in few passes on a GPU and in the memory layout of its convolutions.

torch's group norm copies channels-last images to another layout and back, and keeps what SiLU reads: in the network of
CIFAR-10 that took more time than all convolutions together (docs/benchmarks.md). These kernels read rows of pixels
with all their channels, as convolutions write them. Every result is a function of the input alone: no atomic sums.

The norm is ``y = x a + b`` with ``a`` and ``b`` of each image and channel, so two kinds of passes are enough: sums over
the pixels of every channel, and the same arithmetic for every value. A number ``c`` that is added to all pixels of a
channel before, such as a convolution's bias, changes ``b`` and the sums, and needs no pass of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["fused_group_norm", "fused_residual"]

_TILE = 4096  # values to a program at once: 32 a thread
_PROGRAMS = 1024  # enough for every multiprocessor to have several


def fused_group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool, added: Tensor | None = None
) -> Tensor:
    """Group norm of ``x + added``, and SiLU of it.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16 or float16; channels last, or it is copied.
        groups: divides ``C``.
        weight, bias: float32 ``(C,)``.
        eps: added to the variance.
        silu: whether SiLU follows.
        added: ``(B, C)``, to every pixel.

    Returns:
        The shape and dtype of ``x``, channels last; sums are float32.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.cuda.device_of(x):  # Triton launches on the current device; autograd sets it in the backward pass
        made: Tensor = _GroupNorm.apply(x, groups, weight, bias, eps, silu, added)
    return made


def fused_residual(x: Tensor, skip: Tensor, bias: Tensor, scale: float) -> Tensor:
    """``(x + bias + skip) scale``.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16 or float16; channels last, or it is copied.
        skip: shape and dtype of ``x``.
        bias: float32 ``(C,)``.
        scale: of the sum.

    Returns:
        The shape and dtype of ``x``, channels last.
    """
    x, skip = (each.contiguous(memory_format=torch.channels_last) for each in (x, skip))
    with torch.cuda.device_of(x):
        made: Tensor = _Residual.apply(x, skip, bias, scale)
    return made


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, added: Tensor | None
    ) -> Tensor:
        batch, channels, height, width = x.shape
        pixels, width_of_group = height * width, channels // groups
        sums, splits, grid, shape = _prepared(x)
        _sums[grid](x, x, sums, sums, pixels, channels, pixels // splits, GRADIENT=False, SILU=False, **shape)
        coefficients = torch.empty(batch, 2, channels, device=x.device)
        moments = torch.empty(batch, 2, groups, device=x.device)
        tile = {"ADDED": added is not None, "GROUPS": _power(groups), "WIDTH": _power(width_of_group)}
        totals = None if added is None else torch.empty(batch, channels, device=x.device)
        _coefficients[(batch,)](
            sums, weight, bias, added, totals, coefficients, moments,
            pixels, channels, groups, width_of_group, splits, eps, **tile,
        )  # fmt: skip
        made = torch.empty_like(x)
        _apply[_tiles(x, shape)](x, x, coefficients, sums, made, pixels, channels, GRADIENT=False, SILU=silu, **shape)
        ctx.save_for_backward(x, weight, coefficients, moments, added, totals)
        ctx.silu = silu
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, coefficients, moments, added, totals = ctx.saved_tensors
        batch, channels, height, width = x.shape
        groups, pixels = moments.shape[2], height * width
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        sums, splits, grid, shape = _prepared(x)
        part = pixels // splits
        _sums[grid](x, gradient, coefficients, sums, pixels, channels, part, GRADIENT=True, SILU=ctx.silu, **shape)
        affine = torch.empty(batch, 2, channels, device=x.device)  # an image's gradients of weight and bias
        feedback = torch.empty(batch, 2, channels, device=x.device)
        for_added = None if added is None else torch.empty(batch, channels, device=x.device)
        tile = {"ADDED": added is not None, "GROUPS": _power(groups), "WIDTH": _power(channels // groups)}
        _feedback[(batch,)](
            sums, weight, moments, added, totals, affine, feedback, for_added,
            pixels, channels, groups, channels // groups, splits, **tile,
        )  # fmt: skip
        made = torch.empty_like(x)
        given = (x, gradient, coefficients, feedback, made, pixels, channels)
        _apply[_tiles(x, shape)](*given, GRADIENT=True, SILU=ctx.silu, **shape)
        for_weight, for_bias = affine.sum(0)
        return made, None, for_weight, for_bias, None, None, None if for_added is None else for_added.to(added.dtype)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor, bias: Tensor, scale: float) -> Tensor:
        _, channels, height, width = x.shape
        made, shape = torch.empty_like(x), _tile(channels)
        _residual[_tiles(x, shape)](x, skip, bias, made, height * width, channels, scale, **shape)
        ctx.scale = scale
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        _, channels, height, width = gradient.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        pixels, made = height * width, torch.empty_like(gradient)
        splits, grid, shape = _split(gradient)
        sums = torch.empty(*grid, channels, device=gradient.device)
        _scaled[grid](gradient, made, sums, pixels, channels, pixels // splits, ctx.scale, **shape)
        return made, made, sums.sum((0, 1)), None


def _power(number: int) -> int:
    return int(triton.next_power_of_2(number))


def _tile(channels: int) -> dict[str, int]:
    block = _power(channels)
    return {"ROWS": max(1, _TILE // block), "BLOCK": block}


def _split(x: Tensor) -> tuple[int, tuple[int, int], dict[str, int]]:
    """Into how many parts an image's pixels are split where they are summed, the grid, and the size of a tile."""
    batch, channels, height, width = x.shape
    shape, splits = _tile(channels), 1
    while (
        batch * splits < _PROGRAMS
        and height * width % (2 * splits) == 0
        and height * width // splits >= 2 * shape["ROWS"]
    ):
        splits *= 2
    return splits, (batch, splits), shape


def _prepared(x: Tensor) -> tuple[Tensor, int, tuple[int, int], dict[str, int]]:
    """Room for both partial sums, and :func:`_split`."""
    splits, grid, shape = _split(x)
    return torch.empty(*grid, 2, x.shape[1], device=x.device), splits, grid, shape


def _tiles(x: Tensor, shape: dict[str, int]) -> tuple[int, int]:
    return x.shape[0], int(triton.cdiv(x.shape[2] * x.shape[3], shape["ROWS"]))


@triton.jit
def _before_silu(gradient, y):
    """The gradient of SiLU's input ``y``."""
    chance = tl.sigmoid(y)
    return gradient * chance * (1 + y * (1 - chance))


@triton.jit
def _sums(
    x, gradient, coefficients, sums, pixels, channels, part,
    GRADIENT: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Over a part of an image's pixels, of every channel: x and x^2, or in the backward pass g and g x."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    known = channel < channels
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    if SILU:
        scale = tl.load(coefficients + image * 2 * channels + channel, known, 0.0)
        shift = tl.load(coefficients + image * 2 * channels + channels + channel, known, 0.0)
    for start in range(0, part, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < part)[:, None] & known[None, :]
        place = (image * pixels + split * part + row)[:, None] * channels + channel[None, :]
        value = tl.load(x + place, inside, 0.0).to(tl.float32)
        if GRADIENT:
            pulled = tl.load(gradient + place, inside, 0.0).to(tl.float32)
            if SILU:
                pulled = _before_silu(pulled, value * scale[None, :] + shift[None, :])
            first += pulled
            second += pulled * value
        else:
            first += value
            second += value * value
    where = (image * tl.num_programs(1) + split) * 2 * channels + channel
    tl.store(sums + where, tl.sum(first, 0), known)
    tl.store(sums + where + channels, tl.sum(second, 0), known)


@triton.jit
def _gathered(sums, image, place, known, channels, splits):
    """Both sums of an image over all parts of its pixels."""
    first = tl.zeros(place.shape, tl.float32)
    second = tl.zeros(place.shape, tl.float32)
    for split in range(splits):
        start = sums + (image * splits + split) * 2 * channels
        first += tl.load(start + place, known, 0.0)
        second += tl.load(start + channels + place, known, 0.0)
    return first, second


@triton.jit
def _coefficients(
    sums, weight, bias, added, totals, coefficients, moments, pixels, channels, groups, width, splits, eps,
    ADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``a`` and ``b`` of every channel of ``x``, mean and reciprocal standard deviation of every group of ``x + c``."""
    image = tl.program_id(0).to(tl.int64)
    group, within = tl.arange(0, GROUPS), tl.arange(0, WIDTH)
    known = (group < groups)[:, None] & (within < width)[None, :]
    place = group[:, None] * width + within[None, :]
    first, second = _gathered(sums, image, place, known, channels, splits)
    if ADDED:
        constant = tl.load(added + image * channels + place, known, 0.0).to(tl.float32)
        second += constant * (2 * first + pixels * constant)
        first += pixels * constant
        tl.store(totals + image * channels + place, first, known)
    count = pixels * width
    mean = tl.sum(first, 1) / count
    variance = tl.maximum(tl.sum(second, 1) / count - mean * mean, 0.0)
    inverse = 1 / tl.sqrt(variance + eps)
    scale = tl.load(weight + place, known, 0.0) * inverse[:, None]
    shift = tl.load(bias + place, known, 0.0) - mean[:, None] * scale
    if ADDED:
        shift += constant * scale
    tl.store(coefficients + image * 2 * channels + place, scale, known)
    tl.store(coefficients + image * 2 * channels + channels + place, shift, known)
    tl.store(moments + image * 2 * groups + group, mean, group < groups)
    tl.store(moments + image * 2 * groups + groups + group, inverse, group < groups)


@triton.jit
def _feedback(
    sums, weight, moments, added, totals, affine, feedback, for_added, pixels, channels, groups, width, splits,
    ADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """An image's gradients of weight, bias and ``c``; how its moments' gradients reach its values: ``x p + q``."""
    image = tl.program_id(0).to(tl.int64)
    group, within = tl.arange(0, GROUPS), tl.arange(0, WIDTH)
    known = (group < groups)[:, None] & (within < width)[None, :]
    place = group[:, None] * width + within[None, :]
    pulled, pulled_x = _gathered(sums, image, place, known, channels, splits)
    if ADDED:
        constant = tl.load(added + image * channels + place, known, 0.0).to(tl.float32)
        pulled_x += constant * pulled
    mean = tl.load(moments + image * 2 * groups + group, group < groups, 0.0)
    inverse = tl.load(moments + image * 2 * groups + groups + group, group < groups, 0.0)
    factor = tl.load(weight + place, known, 0.0)
    normed = (pulled_x - mean[:, None] * pulled) * inverse[:, None]
    tl.store(affine + image * 2 * channels + place, normed, known)
    tl.store(affine + image * 2 * channels + channels + place, pulled, known)
    count = pixels * width
    of_mean = inverse * tl.sum(factor * pulled, 1) / count
    of_scale = inverse * inverse * tl.sum(factor * normed, 1) / count
    slope = tl.zeros([GROUPS, WIDTH], tl.float32) - of_scale[:, None]
    level = tl.zeros([GROUPS, WIDTH], tl.float32) + (mean * of_scale - of_mean)[:, None]
    if ADDED:
        total = tl.load(totals + image * channels + place, known, 0.0)
        gradient = factor * inverse[:, None] * pulled + slope * total + level * pixels
        tl.store(for_added + image * channels + place, gradient, known)
        level += slope * constant
    tl.store(feedback + image * 2 * channels + place, slope, known)
    tl.store(feedback + image * 2 * channels + channels + place, level, known)


@triton.jit
def _apply(
    x, gradient, coefficients, feedback, made, pixels, channels,
    GRADIENT: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``silu(x a + b)``, or in the backward pass ``g a + x p + q``."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    known = channel < channels
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (row < pixels)[:, None] & known[None, :]
    place = (image * pixels + row)[:, None] * channels + channel[None, :]
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    scale = tl.load(coefficients + image * 2 * channels + channel, known, 0.0)
    shift = tl.load(coefficients + image * 2 * channels + channels + channel, known, 0.0)
    y = value * scale[None, :] + shift[None, :]
    if GRADIENT:
        pulled = tl.load(gradient + place, inside, 0.0).to(tl.float32)
        if SILU:
            pulled = _before_silu(pulled, y)
        slope = tl.load(feedback + image * 2 * channels + channel, known, 0.0)
        level = tl.load(feedback + image * 2 * channels + channels + channel, known, 0.0)
        y = pulled * scale[None, :] + value * slope[None, :] + level[None, :]
    elif SILU:
        y = y * tl.sigmoid(y)
    tl.store(made + place, y.to(made.dtype.element_ty), inside)


@triton.jit
def _residual(x, skip, bias, made, pixels, channels, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """``(x + bias + skip) scale``."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    known = channel < channels
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (row < pixels)[:, None] & known[None, :]
    place = (image * pixels + row)[:, None] * channels + channel[None, :]
    value = tl.load(x + place, inside, 0.0).to(tl.float32) + tl.load(bias + channel, known, 0.0)[None, :]
    value = (value + tl.load(skip + place, inside, 0.0).to(tl.float32)) * scale
    tl.store(made + place, value.to(made.dtype.element_ty), inside)


@triton.jit
def _scaled(gradient, made, sums, pixels, channels, part, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """``g scale``, and its sum over a part of an image's pixels, of every channel."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, BLOCK)
    known = channel < channels
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, part, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < part)[:, None] & known[None, :]
        place = (image * pixels + split * part + row)[:, None] * channels + channel[None, :]
        value = tl.load(gradient + place, inside, 0.0).to(tl.float32) * scale
        total += value
        tl.store(made + place, value.to(made.dtype.element_ty), inside)
    tl.store(sums + (image * tl.num_programs(1) + split) * channels + channel, tl.sum(total, 0), known)
