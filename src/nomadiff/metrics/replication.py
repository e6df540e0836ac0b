"""Replication: is a generator drawing anew, or handing back its training images?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.neighbours import nearest_neighbours

__all__ = ["nearest_neighbours", "replication", "replication_threshold"]


def replication_threshold(train: Tensor, held_out: Tensor, *, quantile: float = 0.05) -> float:
    """How near a fresh real image comes to the training set in only ``quantile`` of cases.

    Args:
        train: training images (uint8) or features ``(N, ...)``.
        held_out: real images or features that were not trained on, ``(M, ...)``.
        quantile: between 0 and 1.

    Raises:
        UsageError: too few held-out images to know that quantile (fewer than ``1 / quantile``).
    """
    if not 0 < quantile < 1:
        raise UsageError(f"quantile must lie between 0 and 1, got {quantile}")
    if len(held_out) * quantile < 1:
        raise UsageError(f"the {quantile:g} quantile needs {1 / quantile:.0f} held-out images or more: {len(held_out)}")
    return float(torch.quantile(nearest_neighbours(held_out, train)[1][:, 0], quantile))


def replication(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    quantile: float = 0.05,
    features: Callable[[Tensor], Tensor] | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Share of samples that are nearer to a training image than real images ever are by chance.

    The threshold is the ``quantile`` of the distances from held-out real images to their nearest training image. So
    fresh real data scores ``quantile`` by construction, and a generator that copies its training set scores 1.

    Args:
        samples: uint8 images ``(N, C, H, W)``, or points ``(N, D)``.
        train: what the generator was trained on, of the same kind.
        held_out: real data of the same origin that was *not* trained on.
        quantile: the rate that fresh real data shall score.
        features: map from images to features, a detector for instance; by default the pixels in [0, 1] themselves.
        threshold: :func:`replication_threshold` of ``train`` and ``held_out``, where it is known from before.

    Returns:
        ``replication`` (the share), ``threshold``, ``quantile``, and for every sample its nearest training image:
        ``index`` int64 ``(N,)`` and ``distance`` float64 ``(N,)``.

    Raises:
        UsageError: too few held-out images, or images of different sizes.
    """
    if features is not None:
        samples, train, held_out = features(samples), features(train), features(held_out)
    if threshold is None:
        threshold = replication_threshold(train, held_out, quantile=quantile)
    index, distance = (column[:, 0] for column in nearest_neighbours(samples, train))
    share = float((distance <= threshold).double().mean())  # <=: where held-out data holds copies the threshold is 0
    return {"replication": share, "threshold": threshold, "quantile": quantile, "index": index, "distance": distance}
