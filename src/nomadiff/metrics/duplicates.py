"""Near-duplicates: images that are the same but for what saving and resizing does to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.neighbours import nearest_neighbours

__all__ = ["GREY_LEVELS", "Duplicates", "near_duplicates"]

GREY_LEVELS = 4.0
"""Root mean square difference, of 255, up to which two images are near-duplicates: what a good JPEG changes."""


@dataclass(frozen=True)
class Duplicates:
    """Images that have a near-duplicate.

    Attributes:
        count: how many.
        pairs: int64 ``(count, 2)``: the image, and the nearest one it doubles.
        difference: float64 ``(count,)``, root mean square difference in grey levels; 0 for exact copies.
    """

    count: int
    pairs: Tensor
    difference: Tensor


def near_duplicates(images: Tensor, others: Tensor | None = None) -> Duplicates:
    """Images with a near-duplicate among ``others``, or among themselves.

    Args:
        images: uint8 ``(N, C, H, W)``.
        others: uint8 ``(M, C, H, W)``; None looks within ``images``.

    Raises:
        UsageError: the two have different sizes.
    """
    check_images(images, "images")
    if others is not None:
        check_images(others, "others")
        if others.shape[1:] != images.shape[1:]:
            raise UsageError(f"images {tuple(images.shape[1:])} and {tuple(others.shape[1:])} cannot be compared")
    elif len(images) < 2:
        return Duplicates(0, torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    index, distance = nearest_neighbours(images, images if others is None else others, itself=others is None)
    difference = 255 * distance[:, 0] / images[0].numel() ** 0.5
    doubled = torch.nonzero(difference <= GREY_LEVELS)[:, 0]
    return Duplicates(len(doubled), torch.stack([doubled, index[doubled, 0]], 1), difference[doubled])
