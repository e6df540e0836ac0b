"""Grids put every pixel where it belongs."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.errors import NomadiffError, UsageError
from nomadiff.pictures import image_grid, png_data_uri
from nomadiff.reports.grids import save_grid


def images(count: int, channels: int, height: int = 4, width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("scale", [1, 3])
def test_every_image_is_in_its_place_and_the_rest_is_background(channels: int, gap: int, scale: int) -> None:
    batch = images(5, channels)
    grid = image_grid(batch, 2, gap=gap, background=77, scale=scale)
    assert grid.mode == ("L" if channels == 1 else "RGB")
    assert grid.size == (scale * (2 * 3 + gap), scale * (3 * 4 + 2 * gap))
    enlarged = np.asarray(grid).reshape(grid.height, grid.width, channels)
    pixels = enlarged[::scale, ::scale]
    assert (enlarged == pixels.repeat(scale, axis=0).repeat(scale, axis=1)).all()
    left = np.full_like(pixels, 77)
    for index, image in enumerate(batch.permute(0, 2, 3, 1).numpy()):
        top, side = index // 2 * (4 + gap), index % 2 * (3 + gap)
        assert (pixels[top : top + 4, side : side + 3] == image).all()
        left[top : top + 4, side : side + 3] = image
    assert (pixels == left).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "LA"), (3, "RGBA")])
def test_gap_can_be_transparent(channels: int, mode: str) -> None:
    grid = image_grid(images(2, channels), 2, background=None)
    alpha = np.asarray(grid)[:, :, -1]
    assert grid.mode == mode
    assert (alpha[:, 3] == 0).all() and (np.delete(alpha, 3, axis=1) == 255).all()


def test_fewer_images_than_columns_make_one_short_row() -> None:
    assert image_grid(images(2, 1), 8).size == (2 * 3 + 1, 4)


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.uint8), torch.zeros(0, 1, 4, 4, dtype=torch.uint8),
     torch.zeros(2, 4, 4, dtype=torch.uint8)],
    ids=["float", "two channels", "none", "three axes"],
)  # fmt: skip
def test_what_is_no_batch_of_images_is_refused(batch: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="uint8 images"):
        image_grid(batch, 2)
    with pytest.raises(UsageError):
        save_grid("never.png", batch, 2)


def test_no_columns_are_refused() -> None:
    with pytest.raises(UsageError, match="columns=0"):
        image_grid(images(2, 1), 0)


@pytest.mark.parametrize(("side", "factor"), [(8, 8), (32, 2), (48, 1), (64, 1), (200, 1)])
def test_saved_grids_enlarge_small_images_by_a_whole_factor(tmp_path, side: int, factor: int) -> None:
    batch = images(4, 1, side, side)
    save_grid(tmp_path / "grid.png", batch, 2)
    saved = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (saved == np.asarray(image_grid(batch, 2, scale=factor))).all()
    assert os.listdir(tmp_path) == ["grid.png"]


def test_only_png_is_written(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        save_grid(tmp_path / "grid.jpg", images(1, 3), 1)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NomadiffError, match="grid.png"):
        save_grid(tmp_path / "file" / "grid.png", images(1, 3), 1)


def test_data_uri_holds_the_picture() -> None:
    grid = image_grid(images(3, 3), 2)
    kind, _, data = png_data_uri(grid).partition(",")
    assert kind == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == np.asarray(grid)).all()
