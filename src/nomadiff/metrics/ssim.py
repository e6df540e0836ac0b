"""Structural similarity of image pairs (Wang et al. 2004), with their Gaussian window."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import check_images

__all__ = ["WINDOW", "ssim"]

WINDOW, SIGMA = 11, 1.5


def ssim(x: Tensor, y: Tensor, *, batch_size: int = 256) -> Tensor:
    """SSIM of pairs of images, 1 for equal ones.

    The variant of the original paper: 11x11 Gaussian window of spread 1.5, biased covariances, constants (0.01 L)^2 and
    (0.03 L)^2 with L = 255, mean over the positions where the window lies inside the image and over channels. It is
    scikit-image's with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. Other variants differ by up
    to 0.05 on small images.

    Args:
        x: uint8 ``(N, C, H, W)``, H and W at least 11.
        y: uint8, the partners.
        batch_size: pairs computed together.

    Returns:
        float64 ``(N,)`` in [-1, 1].

    Raises:
        UsageError: different or too small images.
    """
    check_images(x, "SSIM")
    check_images(y, "SSIM")
    if x.shape != y.shape:
        raise UsageError(f"SSIM compares images pair by pair, got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[2:]) < WINDOW:
        raise UsageError(f"SSIM needs images of {WINDOW}x{WINDOW} or more, got {x.shape[2]}x{x.shape[3]}")
    parts = [_ssim(a.double(), b.double()) for a, b in zip(x.split(batch_size), y.split(batch_size))]
    return torch.cat(parts)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    distance = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    window = (-(distance**2) / (2 * SIGMA**2)).exp()
    window = window / window.sum()

    def local_mean(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]  # the window is the same for every channel
        flat = functional.conv2d(functional.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return flat.reshape(*image.shape[:2], *flat.shape[2:])

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return similarity.mean((1, 2, 3))
