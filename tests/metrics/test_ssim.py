"""SSIM against scikit-image's Gaussian variant."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.ssim import ssim


@pytest.mark.parametrize(("channels", "size"), [(1, 12), (3, 32), (3, 64)])
def test_equals_scikit_image(images, channels: int, size: int) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image (test extra)")
    x, y = images(3, channels, size), images(3, channels, size, seed=1)
    y[0] = (x[0].int() + 5).clamp(max=255).to(torch.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = [metrics.structural_similarity(a.numpy(), b.numpy(), channel_axis=0, **options) for a, b in zip(x, y)]
    assert ssim(x, y, batch_size=2).tolist() == pytest.approx(expected, abs=1e-10)


def test_equal_images_score_one_and_negatives_below_zero(images) -> None:
    x = images(2, 1, 16)
    assert ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-12)
    assert bool((ssim(x, 255 - x) < 0).all())


def test_bad_input_is_told(images) -> None:
    with pytest.raises(UsageError, match="needs images of 11x11 or more, got 8x8"):
        ssim(images(1, 1, 8), images(1, 1, 8))
    with pytest.raises(UsageError, match="pair by pair"):
        ssim(images(2, 1, 16), images(1, 1, 16))
