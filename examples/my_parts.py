"""Parts of one's own: a network, a denoiser, a solver, a method, a detector. docs/own-parts.md says what each must be.

They are a module, so that a recipe can name them (``my_parts:Plain``) and ``--plugin my_parts`` finds them again.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nomadiff as nd


class Plain(nn.Module):
    """A residual network of plain convolutions at one resolution."""

    def __init__(self, *, channels: int, resolution: int, label_dim: int, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.condition = nn.Linear(1 + label_dim, width)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.place = nn.Parameter(torch.zeros(width, resolution, resolution))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None) -> Tensor:
        told = noise_label[:, None] if labels is None else torch.cat([noise_label[:, None], labels], dim=1)
        condition = self.condition(told)[:, :, None, None]
        h = self.first(x) + self.place
        for block in self.blocks:
            h = h + block(F.silu(h + condition))
        return self.last(F.silu(h))


class Smooth(nn.Module):
    """A denoiser by itself: what no network can know, the noise level, it handles in its own way."""

    def __init__(self, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma[:, None, None, None]
        shown = (level / (1 + level)).expand(-1, 1, *x.shape[2:])
        correction = self.last(F.silu(self.first(torch.cat([x / (1 + level), shown], dim=1))))
        return x / (1 + 4 * level**2) + level / (1 + level) * correction


def midpoint(denoiser, x, sigmas, noise=None, churn=None):
    """The midpoint method, between noise levels in their logarithm; the last step is Euler's. 2 * steps - 1 calls."""
    for sigma, following in pairwise(sigmas.tolist()):
        halfway = (sigma * following) ** 0.5
        slope = _slope(denoiser, x, sigma)
        if following > 0:
            slope = _slope(denoiser, x + (halfway - sigma) * slope, halfway)
        x = x + (following - sigma) * slope
    return x


def _slope(denoiser, x, sigma):
    level = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
    return (x - denoiser(x.float(), level).to(x.dtype)) / sigma


class FewSynthetic(nd.SDA):
    """Trained as SDA is, but with at most every tenth image synthetic."""

    name = "few-synthetic"

    def training_mix(self, mix):
        """The same sources; nine of ten images are real."""
        return nd.SourceMix(mix.sources[0], mix.sources[1:], real_fraction=0.9)


class Means:
    """Features of images of any size: the mean of each cell of a four by four grid; darker than the middle, or not."""

    name = "means"
    version = "1"
    sha256 = ""
    dimension = None
    class_names = ("dark", "bright")

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 (N, 16 C)."""
        return F.adaptive_avg_pool2d(images.to(self.device).float() / 255, 4).flatten(1)

    def classes(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to int64 (N,)."""
        return self.classes_of_features(self(images))

    def classes_of_features(self, features: Tensor) -> Tensor:
        """float32 (N, 16 C) to int64 (N,)."""
        return (features.to(self.device).mean(1) > 0.3).long()
