"""ResNet-56 for CIFAR-10 (He et al. 2015, section 4.2) as a detector and classifier for 32x32 colour images.

The public weights are Y. Idelbayev's (akamaster/pytorch_resnet_cifar10, BSD-2-Clause). They are loaded by path or URL
and checked by hash; ``nomadiff info`` measures 93.39 % on the 10,000 test images, the 6.61 % error of their table. The
distance is ``fd_cifar10_resnet56``, never "FID".
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.weights import WeightFile, fill, read_tensors, resolve

__all__ = ["WEIGHTS", "Cifar10ResNet56", "ResNet56"]

WEIGHTS = WeightFile(
    "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet56-4bfd9763.th",
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which these weights were trained with


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut; where the size changes, the shortcut skips pixels and adds zeros."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.grows = out != width
        self.conv1 = nn.Conv2d(width, out, 3, stride=2 if self.grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.grows:  # option A of the paper: no parameters; half the new channels before, half behind
            extra = (h.shape[1] - x.shape[1]) // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        return (h + x).relu()


class ResNet56(nn.Module):
    """Three stages of nine blocks, 16, 32 and 64 wide; the tensors' names are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16) for _ in range(9)])
        self.layer2 = nn.Sequential(Block(16, 32), *[Block(32, 32) for _ in range(8)])
        self.layer3 = nn.Sequential(Block(32, 64), *[Block(64, 64) for _ in range(8)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Features: float32 ``(N, 3, 32, 32)``, normalised, to float32 ``(N, 64)``."""
        h = self.bn1(self.conv1(x)).relu()
        return self.layer3(self.layer2(self.layer1(h))).mean((2, 3))


class Cifar10ResNet56:
    """64 pooled features before the linear head, and the ten CIFAR-10 classes.

    Args:
        device: where it computes.
        weights: path or URL of the published file, by default its URL.

    Raises:
        DataError: the file is absent or is not the published one.
        NomadiffError: the download failed.
    """

    name = "cifar10-resnet56"
    version = "1"
    sha256 = WEIGHTS.sha256
    dimension = 64
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        path = resolve(WEIGHTS, weights)
        self.device = torch.device(device)
        self.network = ResNet56()
        tensors = {name.removeprefix("module."): value for name, value in read_tensors(path).items()}
        fill(self.network, tensors, str(path))
        self.network.eval().requires_grad_(False).to(self.device)
        self._mean = torch.tensor(MEAN, device=self.device).reshape(3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).reshape(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, 32, 32)`` to float32 ``(N, 64)``."""
        check_images(images, "detector cifar10-resnet56", channels=3, size=32)
        with torch.inference_mode():
            return self.network((images.to(self.device).float() / 255 - self._mean) / self._std)

    def classes(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, 32, 32)`` to the class, int64 ``(N,)``."""
        return self.classes_of_features(self(images))

    def classes_of_features(self, features: Tensor) -> Tensor:
        """Features ``(N, 64)`` to the class, int64 ``(N,)``."""
        with torch.inference_mode():
            return self.network.linear(features.to(self.device)).argmax(1)
