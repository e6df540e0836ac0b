"""Class composition: which share of a set belongs to each class, and how far two compositions are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nomadiff.errors import UsageError

__all__ = ["composition", "total_variation"]


def composition(classes: Tensor | Sequence[int], count: int) -> list[float]:
    """Share of each class: int64 ``(N,)`` in ``[0, count)`` to ``count`` shares that sum to 1.

    Raises:
        UsageError: no classes given, or one out of range.
    """
    index = torch.as_tensor(classes, dtype=torch.int64)
    if index.numel() == 0:
        raise UsageError("composition: no classes given")
    if int(index.min()) < 0 or int(index.max()) >= count:
        raise UsageError(f"composition: classes must lie in 0..{count - 1}, got {int(index.min())}..{int(index.max())}")
    return (torch.bincount(index.cpu(), minlength=count).double() / len(index)).tolist()


def total_variation(p: Sequence[float], q: Sequence[float]) -> float:
    """Total variation distance of two compositions, in [0, 1]: the share that would have to change class.

    Raises:
        UsageError: they have different numbers of classes.
    """
    if len(p) != len(q):
        raise UsageError(f"compositions of {len(p)} and {len(q)} classes cannot be compared")
    return sum(abs(a - b) for a, b in zip(p, q)) / 2
