"""Is this a model yet? Untrained networks have figures too, and no verdict should be read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nomadiff.metrics.distance_names import distance_in
from nomadiff.metrics.reference import ReferenceSet

__all__ = ["are_like", "why_untrained"]

_FAR = 3.0  # times the distance of fresh real data
_FEW = 0.1  # of fresh real data's density and coverage
_ENOUGH = 1000  # training images to compare with


def why_untrained(row: Mapping[str, Any], floor: Mapping[str, float]) -> str:
    """Why samples are not those of a trained model; empty if they may be, or where it cannot be told.

    They are not if they are at the same time far from real images and hardly ever among or near any. Samples in another
    style are that too: ask :func:`are_like` of what the model was trained on before you say so.

    Args:
        row: the metrics of the samples.
        floor: what fresh real data scores.
    """
    distance = distance_in(row)
    names = ("density", "coverage")
    if not distance or any(name not in scores for scores in (row, floor) for name in (distance, *names)):
        return ""
    if row[distance] < _FAR * floor[distance] or any(row[name] > _FEW * floor[name] for name in names):
        return ""
    return (
        f"{distance} {row[distance]:.3g} where fresh real data scores {floor[distance]:.3g}, precision "
        f"{row['precision']:.2f}, coverage {row['coverage']:.2f}"
    )


def are_like(samples: Tensor, images: Tensor, reference: ReferenceSet) -> bool:
    """Whether samples lie among other images, in the feature space of a reference.

    Args:
        samples: uint8 ``(N, C, H, W)``.
        images: likewise; a thousand of them are taken, evenly spread.
        reference: what names the feature space.
    """
    some = images[torch.linspace(0, len(images) - 1, min(len(images), _ENOUGH)).long()]
    other = reference.with_features(*reference.read(some))
    return other.score_features(reference.read(samples)[0])["density"] > _FEW
