"""Image grids as PNG files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.files import atomic_path
from nomadiff.pictures import image_grid

__all__ = ["save_grid"]

_READABLE_SIDE = 64  # pixels: smaller images are enlarged in a saved grid until their side is at most this


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
