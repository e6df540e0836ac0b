"""Grids of samples in a run folder, one a snapshot, and reading them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nomadiff.files import open_regular
from nomadiff.reports.grids import save_grid

__all__ = ["GRIDS_NAME", "grid_path", "read_grid", "write_grid"]

GRIDS_NAME = "grids"
_COLUMNS = 8


def grid_path(folder: Path, images_seen: int) -> Path:
    """Where the grid of a snapshot lies."""
    return folder / GRIDS_NAME / f"{images_seen:012d}.png"


def write_grid(path: Path, images: Tensor) -> None:
    """Write samples, uint8 ``(N, C, H, W)``."""
    save_grid(path, images, _COLUMNS)


def read_grid(path: Path, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The samples of a written grid: uint8 ``(count, *shape)``, ``shape`` being ``(C, H, W)``.

    Raises:
        OSError: there is no such file, or it is damaged.
        ValueError: it is another grid.
    """
    channels, height, width = shape
    with open_regular(path) as handle, Image.open(handle) as picture:
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    columns = min(_COLUMNS, count)
    scale, left = divmod(pixels.shape[1], columns * (width + 1) - 1)
    rows = -(-count // columns)
    if left or not scale or pixels.shape[0] != scale * (rows * (height + 1) - 1):
        raise ValueError(f"{path}: not a grid of {count} images of {width}x{height}")
    pixels = pixels[::scale, ::scale].reshape(pixels.shape[0] // scale, pixels.shape[1] // scale, channels)
    images = [
        pixels[row * (height + 1) :, column * (width + 1) :][:height, :width]
        for row, column in (divmod(index, columns) for index in range(count))
    ]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
