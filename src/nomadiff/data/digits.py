"""The built-in sets: scikit-learn's 1,797 scanned digits, 8x8, and two synthetic sources made from part of them.

======================  ======  ================================================================================
``digits:pool``         1,000   real; what models and generators may see
``digits:reference``    797     real; seen by no generator and no model, for evaluation
``digits:close``        2,000   synthetic; samples of a nomadiff model trained on the pool
``digits:style``        2,000   synthetic; ``close`` blurred (3x3 binomial) and moved one pixel right, cyclically
======================  ======  ================================================================================
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nomadiff.data.image_set import ImageSet
from nomadiff.data.images import read_images
from nomadiff.data.manifest import read_manifest
from nomadiff.errors import DataError, UsageError

__all__ = ["PREFIX", "blurred_and_shifted", "digits_manifest", "read_digits"]

PREFIX = "digits:"

_CLOSE = Path(__file__).with_name("assets") / "digits_close.npz"
_SPLITS = ("pool", "reference", "close", "style")


def read_digits(spec: str) -> ImageSet:
    """Read one of the built-in sets named above.

    Pixels 0..16 of the scans become ``round(v * 255 / 16)``. Real images come with labels 0-9, in the order of
    ``RandomState(1234).permutation(1797)``: the pool is its first 1,000.

    Args:
        spec: ``digits:`` and the name of a set.

    Returns:
        uint8 ``(N, 1, 8, 8)``.

    Raises:
        UsageError: no such set.
        DataError: the synthetic images are missing from this installation.
    """
    split = _split(spec)
    if split in ("close", "style"):
        if not _CLOSE.exists():
            raise DataError(
                f"{spec}: {_CLOSE.name} is missing from this installation; run scripts/make_digits_close.py"
            )
        close = read_images(_CLOSE)
        return close if split == "close" else ImageSet(blurred_and_shifted(close.images), close.labels, None)
    scans = _scans()
    # numpy's frozen generator: the split must never change
    order = np.random.RandomState(1234).permutation(len(scans))
    order = order[:1000] if split == "pool" else order[1000:]
    images = np.round(scans[order, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(scans[order, -1].astype(np.int64)), None)


@cache
def _scans() -> np.ndarray:
    """The rows of scikit-learn's file, 64 pixels and a label; read without the library, whose import takes seconds."""
    (package,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    file = Path(package, "datasets", "data", "digits.csv.gz")
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()  # a version that keeps it elsewhere
    return np.column_stack([digits.data, digits.target])


def digits_manifest(spec: str) -> dict[str, Any] | None:
    """The manifest of a built-in set: None for the real ones."""
    split = _split(spec)
    if split not in ("close", "style"):
        return None
    manifest = (read_manifest(_CLOSE) if _CLOSE.exists() else None) or {"kind": "synthetic"}
    return manifest if split == "close" else {**manifest, "then": "3x3 binomial blur, cyclic shift right by 1 pixel"}


def blurred_and_shifted(images: Tensor) -> Tensor:
    """The style shift: a 3x3 binomial blur (edges reflected), then every row moved one pixel right, cyclically.

    Args:
        images: uint8 ``(N, C, H, W)``.

    Returns:
        uint8 of the same shape, rounded half up.
    """
    channels = images.shape[1]
    row = torch.tensor([1.0, 2.0, 1.0])
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    padded = functional.pad(images.float(), (1, 1, 1, 1), mode="reflect")
    total = functional.conv2d(padded, kernel, groups=channels).round().long()  # whole numbers below 2^24: exact
    return ((total + 8) // 16).to(torch.uint8).roll(1, dims=-1)


def _split(spec: str) -> str:
    split = spec.removeprefix(PREFIX)
    if split not in _SPLITS:
        raise UsageError(f"{spec}: no such built-in set; there are {', '.join(PREFIX + name for name in _SPLITS)}")
    return split
