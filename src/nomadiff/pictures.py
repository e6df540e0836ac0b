"""Images and rows as pictures and tables inside a page: of a report, of a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nomadiff.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["html_grid", "html_table", "image_grid", "png_data_uri"]

_WIDTH = 512  # pixels of a grid in a notebook, about


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
    import numpy as np
    import torch
    from PIL import Image

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


def png_data_uri(image: Image.Image) -> str:
    """A picture as ``data:image/png;base64,...``, to stand inside a page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def html_grid(images: Tensor, columns: int = 8) -> str:
    """A grid as an ``<img>`` for a notebook: uint8 ``(N, C, H, W)``; small images are enlarged."""
    scale = max(1, _WIDTH // (columns * max(images.shape[2:])))
    return f'<img src="{png_data_uri(image_grid(images, columns, scale=scale))}">'


def html_table(rows: Iterable[Mapping[str, Any]], caption: str = "", head: bool = True) -> str:
    """Rows as a ``<table>`` for a notebook; floats have four digits, what is missing is empty.

    Args:
        rows: mappings from column to value; rows may lack columns.
        caption: a line above.
        head: whether the names of the columns are shown.
    """
    lines = list(rows)
    columns = list(dict.fromkeys(name for row in lines for name in row))

    def cell(value: Any, tag: str = "td") -> str:
        text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return f"<{tag}>{html.escape(text)}</{tag}>"

    top = ["".join(cell(name, "th") for name in columns)] if head else []
    body = ["".join(cell(row.get(name)) for name in columns) for row in lines]
    told = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{told}{''.join(f'<tr>{line}</tr>' for line in (*top, *body))}</table>"
