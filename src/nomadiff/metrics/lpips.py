"""LPIPS (Zhang et al. 2018), version 0.1: how different two images look, by weighted differences of network features.

Two files of weights belong to it: an ImageNet network (torchvision's, BSD-3-Clause) and its five or seven linear heads
(the authors', BSD-2-Clause). Both are taken by path or URL and checked by hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.weights import WeightFile, fill, read_tensors, resolve

__all__ = ["LPIPS", "NETWORKS", "LPIPSNetwork"]

_HEADS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/"
)
_TRUNKS = "https://download.pytorch.org/models/"

NETWORKS = {
    "alex": (
        WeightFile(
            _TRUNKS + "alexnet-owt-7be5be79.pth", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
        ),
        WeightFile(_HEADS + "alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ),
    "squeeze": (
        WeightFile(
            _TRUNKS + "squeezenet1_1-b8a52dc0.pth", "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b"
        ),
        WeightFile(_HEADS + "squeeze.pth", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
    ),
    "vgg": (
        WeightFile(_TRUNKS + "vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
        WeightFile(_HEADS + "vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    ),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for images in [-1, 1]


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 convolution, then 1x1 and 3x3 side by side."""

    def __init__(self, width: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def _alexnet() -> list[nn.Module]:
    convolutions = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=1),
    ]
    layers: list[nn.Module] = []
    for number, convolution in enumerate(convolutions):
        layers += [nn.MaxPool2d(3, 2)] * (number in (1, 2)) + [convolution, nn.ReLU()]
    return layers


def _squeezenet() -> list[nn.Module]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    first = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64)]
    second = [pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192)]
    return [*first, *second, Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    width = 3
    for number, (out, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        layers += [nn.MaxPool2d(2, 2)] * (number > 0)
        for _ in range(count):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
    return layers


# name: layers, the indices of layers whose output is taken, their widths
_GRAPHS = {
    "alex": (_alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeeze": (_squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
    "vgg": (_vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
}


class LPIPSNetwork(nn.Module):
    """Trunk and heads; ``trunk``'s tensors are named as in torchvision's ``features``.

    Args:
        net: ``"alex"``, ``"squeeze"`` or ``"vgg"``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        layers, self.taps, widths = _GRAPHS[net]
        self.trunk = nn.Sequential(*layers())
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).reshape(3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of pairs: float32 ``(N, 3, H, W)`` in [-1, 1], twice, to float32 ``(N,)``."""
        total = torch.zeros(len(x), device=x.device)
        for head, a, b in zip(self.heads, self.features(x), self.features(y)):
            total = total + torch.einsum("nchw,c->nhw", (a - b).square(), head).mean((1, 2))
        return total

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """Features of each tap, of unit length at every position."""
        x = (x - self.shift) / self.scale
        for number, layer in enumerate(self.trunk):
            x = layer(x)
            if number in self.taps:
                yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class LPIPS:
    """LPIPS with the published weights.

    Args:
        net: ``"alex"`` (the authors' choice for a metric), ``"squeeze"`` or ``"vgg"``.
        device: where it computes.
        trunk: path or URL of torchvision's file, by default its URL.
        heads: path or URL of the authors' file, by default its URL.

    Raises:
        UsageError: no such network.
        DataError: a file is absent or not the published one.
        NomadiffError: a download failed.
    """

    def __init__(
        self,
        net: str = "alex",
        *,
        device: str | torch.device = "cpu",
        trunk: str | Path | None = None,
        heads: str | Path | None = None,
    ) -> None:
        if net not in NETWORKS:
            raise UsageError(f"no LPIPS network {net!r}: choose one of {', '.join(NETWORKS)}")
        self.name = f"lpips_{net}"
        self.device = torch.device(device)
        self.network = LPIPSNetwork(net)
        trunk_path, head_path = (resolve(file, given) for file, given in zip(NETWORKS[net], (trunk, heads)))
        features = {name: value for name, value in read_tensors(trunk_path).items() if name.startswith("features.")}
        heads_in_file = read_tensors(head_path)
        fill(self.network.trunk, {name[len("features.") :]: value for name, value in features.items()}, str(trunk_path))
        named = {name.split(".")[0].removeprefix("lin"): value.flatten() for name, value in heads_in_file.items()}
        fill(self.network.heads, named, str(head_path))
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, x: Tensor, y: Tensor, *, batch_size: int = 64) -> Tensor:
        """LPIPS of pairs of images, 0 for equal ones.

        Args:
            x: uint8 ``(N, 3, H, W)``, at least 32x32.
            y: uint8, the partners.
            batch_size: pairs computed together.

        Returns:
            float32 ``(N,)`` on the CPU.

        Raises:
            UsageError: different, grey or too small images.
        """
        check_images(x, self.name, channels=3)
        check_images(y, self.name, channels=3)
        if x.shape != y.shape:
            raise UsageError(f"{self.name} compares images pair by pair, got {tuple(x.shape)} and {tuple(y.shape)}")
        if min(x.shape[2:]) < 32:
            raise UsageError(f"{self.name} needs images of 32x32 or more, got {x.shape[2]}x{x.shape[3]}")
        parts = []
        with torch.inference_mode():
            for a, b in zip(x.split(batch_size), y.split(batch_size)):
                pair = (image.to(self.device).float() / 127.5 - 1 for image in (a, b))
                parts.append(self.network(*pair).cpu())
        return torch.cat(parts)
