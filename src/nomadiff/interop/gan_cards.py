"""Published generators of StyleGAN by name: where they are, how large their images are, and under what terms.

The files are NVIDIA's and are not part of nomadiff; drawing from one means agreeing to its licence.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GAN_CARDS", "GanCard"]

_TERMS = "non-commercial: published by NVIDIA for research or evaluation only, and so is what is derived from it."
_ADA = (
    f"NVIDIA Source Code License for StyleGAN2 with ADA, {_TERMS} "
    "https://nvlabs.github.io/stylegan2-ada-pytorch/license.html"
)
_THREE = f"NVIDIA Source Code License for StyleGAN3, {_TERMS} https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt"


@dataclass(frozen=True)
class GanCard:
    """One published generator.

    Attributes:
        url: its file.
        resolution: side of its images in pixels, to notice another file under the address.
        classes: number of its classes, 0 without.
        licence: its terms, shown before drawing and kept in the manifest.
    """

    url: str
    resolution: int
    classes: int
    licence: str


def _ada(name: str, resolution: int, classes: int = 0) -> tuple[str, GanCard]:
    url = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/{name}.pkl"
    return f"stylegan2-ada-{name}", GanCard(url, resolution, classes, _ADA)


def _ngc(family: str, name: str, resolution: int, classes: int = 0) -> tuple[str, GanCard]:
    """A file of NVIDIA's catalogue, which the read-me of StyleGAN3 lists."""
    card = f"{family}-{name}-{resolution}x{resolution}"
    collection = "stylegan3" if family.startswith("stylegan3") else "stylegan2"
    url = f"https://api.ngc.nvidia.com/v2/models/nvidia/research/{collection}/versions/1/files/{card}.pkl"
    return card, GanCard(url, resolution, classes, _THREE)


_TWO = (
    *((name, 1024) for name in ("ffhq", "ffhqu", "metfaces", "metfacesu")),
    *((name, 512) for name in ("ffhq", "afhqv2", "afhqcat", "afhqdog", "afhqwild", "brecahad")),
    *((name, 256) for name in ("ffhq", "ffhqu", "celebahq", "lsundog")),
)
_ALIAS_FREE = (
    *((name, 1024) for name in ("ffhq", "ffhqu", "metfaces", "metfacesu")),
    ("ffhqu", 256),
    ("afhqv2", 512),
)

GAN_CARDS: dict[str, GanCard] = dict(
    [
        _ada("cifar10", 32, 10),
        _ada("ffhq", 1024),
        _ada("metfaces", 1024),
        *(_ada(name, 512) for name in ("afhqcat", "afhqdog", "afhqwild", "brecahad")),
        _ngc("stylegan2", "cifar10", 32, 10),
        *(_ngc("stylegan2", name, resolution) for name, resolution in _TWO),
        *(_ngc(f"stylegan3-{kind}", name, resolution) for kind in "tr" for name, resolution in _ALIAS_FREE),
    ]
)
