"""Image grids: a batch of images as one picture, as a PNG file or inline in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.files import atomic_path

__all__ = ["image_grid", "png_data_uri", "save_grid"]

_READABLE_SIDE = 64  # pixels: smaller images are enlarged in a saved grid until their side is at most this


def image_grid(
    images: Tensor, columns: int, *, gap: int = 1, background: int | None = 255, scale: int = 1
) -> Image.Image:
    """Lay images out in rows, left to right, ``gap`` pixels apart.

    Args:
        images: uint8 ``(N, C, H, W)`` with N >= 1 and C of 1 (grey) or 3 (RGB).
        columns: images a row, at least 1; fewer images than that give one shorter row.
        gap: width of the gap in pixels, before enlarging.
        background: grey value of the gap, 0..255; None leaves it transparent.
        scale: every pixel becomes ``scale x scale`` pixels (nearest neighbour, nothing is smoothed).

    Returns:
        An image of mode L or RGB, or LA or RGBA with a transparent background.

    Raises:
        UsageError: the tensor is not such a batch, or ``columns`` or ``scale`` is below 1.
    """
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[0] == 0:
        shape = "x".join(map(str, images.shape))
        raise UsageError(f"an image grid needs uint8 images (N, 1 or 3, H, W) with N >= 1, got {images.dtype} {shape}")
    if columns < 1 or scale < 1:
        raise UsageError(f"columns and scale must be at least 1, got columns={columns}, scale={scale}")
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = np.full((*size, channels), 0 if background is None else background, dtype=np.uint8)
    covered = np.zeros((*size, 1), dtype=np.uint8)
    for index, image in enumerate(images.detach().cpu().permute(0, 2, 3, 1).numpy()):
        top = index // columns * (height + gap)
        left = index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
        covered[top : top + height, left : left + width] = 255
    if background is None:
        canvas = np.concatenate([canvas, covered], axis=2)
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas)


def save_grid(path: str | Path, images: Tensor, columns: int) -> None:
    """Write a grid as PNG in one atomic step; small images are enlarged by a whole factor until they can be seen.

    Args:
        path: a file name that ends in ``.png``.
        images: uint8 ``(N, C, H, W)``, as for :func:`image_grid`.
        columns: images a row.

    Raises:
        UsageError: ``path`` is not a PNG, or the images are not as :func:`image_grid` needs them.
        NomadiffError: the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{path}: a grid is written as PNG; give a name that ends in .png")
    scale = max(1, _READABLE_SIDE // max(*images.shape[2:], 1)) if images.ndim == 4 else 1
    picture = image_grid(images, columns, scale=scale)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def png_data_uri(image: Image.Image) -> str:
    """A picture as ``data:image/png;base64,...``, to stand inside a page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
