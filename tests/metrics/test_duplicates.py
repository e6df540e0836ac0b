"""Near-duplicates: copies and re-saved copies are found, different images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.duplicates import near_duplicates


def resaved(images: torch.Tensor) -> torch.Tensor:
    """Through JPEG at quality 95 and back."""
    from PIL import Image

    result = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95, subsampling=0)
        result.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1))
    return torch.stack(result)


def smooth(count: int, seed: int) -> torch.Tensor:
    rough = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(rough, (32, 32), mode="bicubic") * 255).clamp(0, 255).to(torch.uint8)


def test_copies_and_resaved_copies_are_found() -> None:
    images = smooth(30, 0)
    found = near_duplicates(torch.cat([images[3:4], resaved(images[7:9])]), images)
    assert found.count == 3 and found.pairs.tolist() == [[0, 3], [1, 7], [2, 8]]
    assert found.difference[0] == 0 and 0 < found.difference[1] <= 4


def test_different_images_are_not(images) -> None:
    assert near_duplicates(smooth(50, 0), smooth(50, 1)).count == 0
    assert near_duplicates(images(1, 1, 8)).count == 0


def test_within_a_set_an_image_is_not_its_own_double() -> None:
    images = smooth(10, 0)
    assert near_duplicates(images).count == 0
    found = near_duplicates(torch.cat([images, images[2:3]]))
    assert found.pairs.tolist() == [[2, 10], [10, 2]]


def test_different_sizes_are_told() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        near_duplicates(smooth(2, 0), smooth(2, 0)[..., :16])
