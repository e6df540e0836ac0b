"""SSIM and LPIPS over pairs: how alike the samples are to one another, and to their nearest training image.

CASD's Table 3 prints both without saying which pairs were compared. Its figures (SSIM 0.84 and LPIPS 0.04 for the model
that copies, 0.24 and 0.23 for CASD) fit the second reading, sample against nearest training image: unrelated faces are
not 0.84 alike. Both readings are offered, and named:

* ``*_pairs``: samples 0 and 1, 2 and 3, and so on: diversity. A generator that repeats itself scores high SSIM.
* ``*_nearest``: each sample and its nearest training image in pixels: replication. A copier scores SSIM 1, LPIPS 0.

Images smaller than SSIM's window of 11 pixels are enlarged for it by a whole factor (nearest neighbour).
"""

from __future__ import annotations

from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.neighbours import nearest_neighbours
from nomadiff.metrics.ssim import WINDOW, ssim

__all__ = ["pair_similarity"]


def pair_similarity(
    samples: Tensor, train: Tensor | None = None, *, lpips: LPIPS | None = None, nearest: Tensor | None = None
) -> dict[str, Tensor]:
    """SSIM, and LPIPS where its network is given, of every pair; their means are the figures of Table 3.

    Args:
        samples: uint8 ``(N, C, H, W)``, in the order they were drawn (pairs of neighbours must be independent).
        train: training images, uint8 ``(M, C, H, W)``; without them only ``*_pairs``.
        lpips: the LPIPS to use; colour images only.
        nearest: int64 ``(N,)``, the nearest training image of each sample where it is known from before.

    Returns:
        ``ssim_pairs`` float64 ``(N // 2,)``, ``ssim_nearest`` ``(N,)``, and ``<lpips.name>_pairs``,
        ``<lpips.name>_nearest`` likewise.

    Raises:
        UsageError: fewer than two samples, or images the metrics cannot read.
    """
    if len(samples) < 2:
        raise UsageError(f"pairs need at least 2 samples, got {len(samples)}")
    even = len(samples) // 2 * 2
    couples = {"pairs": (samples[:even:2], samples[1:even:2])}
    if train is not None:
        nearest = nearest_neighbours(samples, train)[0][:, 0] if nearest is None else nearest
        couples["nearest"] = (samples, train[nearest])
    result: dict[str, Tensor] = {}
    for name, (x, y) in couples.items():
        result[f"ssim_{name}"] = ssim(_enlarged(x), _enlarged(y))
        if lpips is not None:
            result[f"{lpips.name}_{name}"] = lpips(x, y)
    return result


def _enlarged(images: Tensor) -> Tensor:
    factor = -(-WINDOW // min(images.shape[2:]))
    return images if factor == 1 else images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
