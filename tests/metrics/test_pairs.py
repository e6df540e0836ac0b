"""SSIM and LPIPS over pairs: a model that copies and one that repeats itself are told apart."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.pairs import pair_similarity


class PixelDistance:
    """Stands for LPIPS, whose weights are not here."""

    name = "lpips_pixels"

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.float() - y.float()).abs().mean((1, 2, 3)) / 255


def test_a_copier_is_its_nearest_training_image(images) -> None:
    train, fresh = images(20, 3, 16), images(21, 3, 16, seed=1)
    copies = pair_similarity(train[torch.arange(21) % 20], train, lpips=PixelDistance())
    assert copies["ssim_nearest"].tolist() == pytest.approx([1] * 21)
    assert copies["lpips_pixels_nearest"].tolist() == [0] * 21
    assert copies["ssim_pairs"].shape == (10,)
    other = pair_similarity(fresh, train, lpips=PixelDistance())
    assert float(other["ssim_nearest"].max()) < 0.5 and float(other["lpips_pixels_nearest"].min()) > 0.05


def test_small_images_are_enlarged_for_the_window(images) -> None:
    small = images(6, 1, 8)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(pair_similarity(small)["ssim_pairs"], pair_similarity(large)["ssim_pairs"])


def test_one_that_repeats_itself_has_equal_pairs(images) -> None:
    result = pair_similarity(images(1, 1, 16).repeat(6, 1, 1, 1))
    assert result["ssim_pairs"].tolist() == pytest.approx([1, 1, 1])
    assert set(result) == {"ssim_pairs"}
    with pytest.raises(UsageError, match="at least 2 samples"):
        pair_similarity(images(1, 1, 16))
