"""Near-duplicates: copies, re-saved, resized, mirrored and slightly cropped copies are found; other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.errors import UsageError
from nomadiff.metrics.duplicates import near_duplicates


def each(images: torch.Tensor, change) -> torch.Tensor:
    """Every image changed by a function of Pillow images."""
    pictures = [change(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
    return torch.stack([torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) for picture in pictures])


def resaved(picture: Image.Image, quality: int = 60) -> Image.Image:
    """Through JPEG and back."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def cropped(picture: Image.Image) -> Image.Image:
    """Without the left and the upper 5 %, and enlarged to the old size."""
    side, cut = picture.width, round(0.05 * picture.width)
    return picture.crop((cut, cut, side, side)).resize((side, side), Image.Resampling.LANCZOS)


def photos(count: int, seed: int, side: int = 32) -> torch.Tensor:
    """Random images with detail of every size, as photographs have."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        rough = torch.rand(count, 3, cells, cells, generator=random)
        total += torch.nn.functional.interpolate(rough, (side, side), mode="bicubic") * 2 / cells
    return (total / 1.9 * 255).clamp(0, 255).to(torch.uint8)


CHANGES = {
    "saved again": resaved,
    "cropped": cropped,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored, cropped": lambda picture: cropped(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("side", [32, 64])
def test_changed_copies_are_found_and_what_was_done_is_said(kind: str, side: int) -> None:
    images = photos(40, 0, side)
    found = near_duplicates(each(images[:20], CHANGES[kind]), images)
    assert found.count == 20 and found.pairs.tolist() == [[i, i] for i in range(20)]
    assert set(found.kinds) == {kind} and float(found.difference.max()) < 6


def test_copies_of_another_size_are_found() -> None:
    images = photos(40, 1, 96)
    small = each(images[5:15], lambda picture: picture.resize((48, 48), Image.Resampling.LANCZOS))
    found = near_duplicates(small, images)
    assert found.pairs[:, 1].tolist() == list(range(5, 15)) and set(found.kinds) == {"saved again"}


def test_identical_images_are_found_however_little_is_in_them() -> None:
    grey = torch.full((3, 1, 8, 8), 200, dtype=torch.uint8)
    grey[1] = 201  # not the same, and nothing says that it is
    found = near_duplicates(grey)
    assert found.count == 2 and found.pairs.tolist() == [[0, 2]] and found.kinds == ("identical",)
    assert near_duplicates(grey[:1], grey).pairs.tolist() == [[0, 0]]


def test_different_images_are_not_near(images) -> None:
    assert near_duplicates(photos(200, 0), photos(200, 1)).count == 0
    assert near_duplicates(images(1, 1, 8)).count == 0
    assert near_duplicates(images(50, 3, 16)).count == 0


def test_another_drawing_is_not_the_same_picture() -> None:
    """One small part in another colour: as emoji in several skin tones, or clocks."""
    drawing = np.full((64, 64, 3), 255, np.uint8)
    drawing[20:60, 10:50] = (40, 60, 200)
    variants = []
    for tone in ((255, 220, 180), (210, 160, 110), (120, 80, 50)):
        variant = drawing.copy()
        variant[8:20, 24:36] = tone
        variants.append(torch.from_numpy(variant).permute(2, 0, 1))
    assert near_duplicates(torch.stack(variants)).count == 0


def test_within_a_set_each_pair_is_told_once() -> None:
    images = photos(10, 0)
    assert near_duplicates(images).count == 0
    found = near_duplicates(torch.cat([images, images[2:3], images[2:3], each(images[4:5], resaved)]))
    assert found.pairs.tolist() == [[2, 10], [2, 11], [4, 12]] and found.count == 5
    assert found.kinds == ("identical", "identical", "saved again")


def test_more_copies_than_candidates_are_all_counted() -> None:
    images = photos(30, 3)
    copies = torch.cat([each(images[:1], lambda picture, q=q: resaved(picture, q)) for q in range(60, 100, 2)])
    assert near_duplicates(copies).count == 20
    assert near_duplicates(copies, images).count == 20


def test_what_is_no_image_is_told() -> None:
    with pytest.raises(UsageError, match="grey or RGB images, got 4"):
        near_duplicates(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(UsageError, match="uint8"):
        near_duplicates(photos(2, 0), torch.zeros(2, 3, 8, 8))


def faint(count: int, seed: int) -> torch.Tensor:
    """Tiles of hardly any contrast, as of water."""
    images = photos(count, seed, 64).float()
    colour = torch.tensor([90.0, 110.0, 100.0])[:, None, None]
    return ((images - images.mean((2, 3), keepdim=True)) * 0.08 + colour).round().to(torch.uint8)


def harsh(count: int, seed: int) -> torch.Tensor:
    """Images of strong edges and colours, of which saving changes single places most."""
    return ((photos(count, seed).float() - 128) * 3 + 128).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("kind", "least"), [(faint, 40), (harsh, 140)])
def test_saved_copies_of_the_hardest_images_are_often_found_and_no_others(kind, least: int) -> None:
    images = kind(200, 0)
    found = near_duplicates(each(images, resaved), images)
    assert found.count > least and found.pairs[:, 0].equal(found.pairs[:, 1])
    assert near_duplicates(images).count == 0 and near_duplicates(kind(200, 1), images).count == 0
