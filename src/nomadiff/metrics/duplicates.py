"""Near-duplicates: images that are one picture but for saving, resizing, mirroring and slight cropping.

Two stages, so that no two of all images need be compared closely. A coarse likeness (8x8 of brightness, 4x4 of colour)
gives each image its nearest few, from products of blocks; :mod:`~nomadiff.metrics.same_picture` looks at those. With
hardly any contrast many are found only where they are identical: little in them survives saving.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.same_picture import agreement, in_light_and_colour, is_same, thumbnails
from nomadiff.progress import progress_bar

__all__ = ["Duplicates", "near_duplicates"]

NEAREST = 4  # candidates of each image, as it is and mirrored
FARTHEST, MOST_OF_CONTRAST = 40.0, 0.8  # coarse difference in grey levels, and relative to the contrast, of candidates
NEAR = 1.5  # grey levels that saving may move: so near, any two images are candidates
CROPPED = 0.02  # of the side: below, it is the alignment's error
BLOCK = 512
MANY = 2000  # images from which on the work takes seconds and shows a bar


@dataclass(frozen=True)
class Duplicates:
    """Images that have a near-duplicate.

    Attributes:
        count: how many of the images have one.
        pairs: int64 ``(P, 2)``: an image and the one it doubles, in order; within one set each pair once. Of many
            doubles of one image, some are paired with one another instead.
        kinds: what has been done, of each pair: "identical", "saved again", "cropped", "mirrored" or
            "mirrored, cropped"; resizing counts as saving.
        difference: float64 ``(P,)``, root mean square difference in brightness, in grey levels, after one is laid over
            the other at 32x32; 0 for identical images.
    """

    count: int
    pairs: Tensor
    kinds: tuple[str, ...]
    difference: Tensor


def near_duplicates(images: Tensor, others: Tensor | None = None) -> Duplicates:
    """Images with a near-duplicate among ``others``, or among themselves.

    Args:
        images: uint8 ``(N, C, H, W)``, C 1 or 3.
        others: uint8 ``(M, C, H, W)``, of any size; None looks within ``images``.

    Raises:
        UsageError: not such images.
    """
    for name, each in (("images", images), ("others", others)):
        if each is not None:
            check_images(each, name)
            if each.shape[1] not in (1, 3):
                raise UsageError(f"{name}: near-duplicates are looked for in grey or RGB images, got {each.shape[1]}")
    if others is None:
        distinct, found = _distinct(images)
        found |= _alike(thumbnails(images[distinct]), None, distinct, distinct)
        touched = {index for pair in found for index in pair}
    else:
        distinct, _ = _distinct(others)
        found = _alike(thumbnails(images), thumbnails(others[distinct]), torch.arange(len(images)), distinct)
        known = {digest: index for index, digest in zip(distinct.tolist(), _digests(others[distinct]))}
        same = ((i, known[digest]) for i, digest in enumerate(_digests(images)) if digest in known)
        found |= dict.fromkeys(same, ("identical", 0.0))
        touched = {i for i, _ in found}
    order = sorted(found)
    return Duplicates(
        len(touched),
        torch.tensor(order, dtype=torch.int64).reshape(-1, 2),
        tuple(found[pair][0] for pair in order),
        torch.tensor([found[pair][1] for pair in order], dtype=torch.float64),
    )


_Found = dict[tuple[int, int], tuple[str, float]]  # kind and difference of each pair


def _digests(images: Tensor) -> list[bytes]:
    shape = repr(tuple(images.shape[1:])).encode()
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16, key=shape[:64]).digest() for image in images]


def _distinct(images: Tensor) -> tuple[Tensor, _Found]:
    """The first of all identical images, int64 ``(K,)``, and the pairs that the others make with these."""
    first: dict[bytes, int] = {}
    pairs: _Found = {}
    for index, digest in enumerate(_digests(images)):
        if first.setdefault(digest, index) != index:
            pairs[first[digest], index] = ("identical", 0.0)
    return torch.tensor(list(first.values())), pairs


def _alike(left: Tensor, right: Tensor | None, names: Tensor, others: Tensor) -> _Found:
    """Pairs that are one picture, of thumbnails, by the names of the images; without ``right`` among ``left``."""
    within = right is None
    right = left if right is None else right
    there = _coarse(right)
    found: _Found = {}
    blocks = range(0, len(left), BLOCK)
    with progress_bar("near-duplicates", total=len(left), unit="images", show=len(left) > MANY) as advance:
        for start in blocks:
            block = left[start : start + BLOCK]
            for mirrored in (False, True):
                turned = block.flip(-1) if mirrored else block
                i, j = _candidates(_coarse(turned), there, start if within else None)
                if not len(i):
                    continue
                pairs = agreement(turned[i], right[j])
                for k in torch.nonzero(is_same(pairs))[:, 0].tolist():
                    pair = (int(names[start + int(i[k])]), int(others[int(j[k])]))
                    kind = _kind(mirrored, float(pairs.stretch[k]) > CROPPED)
                    found.setdefault((min(pair), max(pair)) if within else pair, (kind, float(pairs.difference[k])))
            advance(len(block))
    return found


def _kind(mirrored: bool, cropped: bool) -> str:
    return ", ".join(["mirrored"] * mirrored + ["cropped"] * cropped) or "saved again"


def _coarse(small: Tensor) -> Tensor:
    """Coarse likeness of thumbnails: float32 ``(N, 96)``, distances in grey levels; brightness in the first 64."""
    parts = []
    for block in small.split(BLOCK):
        fine = in_light_and_colour(block)
        light, colour = adaptive_avg_pool2d(fine[:, :1], 8), adaptive_avg_pool2d(fine[:, 1:], 4)
        parts.append(torch.cat([light.flatten(1) / 8, colour.flatten(1) / 4], 1))
    return torch.cat(parts)


def _candidates(here: Tensor, there: Tensor, start: int | None) -> tuple[Tensor, Tensor]:
    """Rows of ``here`` and of ``there`` that may be one picture; ``start``: row i of one is start + i of the other."""
    square = here.square().sum(1)[:, None] + there.square().sum(1) - 2 * here @ there.T
    if start is not None:
        rows = torch.arange(len(here))
        square[rows, rows + start] = torch.inf
    near = square.topk(min(NEAREST, len(there)), dim=1, largest=False)
    far = (MOST_OF_CONTRAST * 8 * here[:, :64].std(1)).clamp(NEAR, FARTHEST).square()
    i, place = torch.nonzero(near.values <= far[:, None], as_tuple=True)
    return i, near.indices[i, place]
