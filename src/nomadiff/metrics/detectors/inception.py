"""The Inception-v3 of the original FID (Heusel et al. 2017): the 2015-12-05 graph with TensorFlow 1's resize.

It differs from other Inception-v3s in what decides the figure: average pools leave the padding out, the last block
pools by maximum, and images are resized without half-pixel centres and without antialiasing. "FID" means these weights,
so two published conversions of them are accepted, by hash, and nothing else:

* ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity, which is pytorch-fid's file (Apache-2.0): the
  default, read into the graph here.
* ``inception-2015-12-05.pt``, NVIDIA's TorchScript file (StyleGAN2-ADA; its own licence), which brings its own graph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.detectors.torchscript import load_script
from nomadiff.metrics.weights import WeightFile, load_weights, resolve

__all__ = ["SCRIPT", "WEIGHTS", "Inception", "InceptionV3", "resize_tf1"]

WEIGHTS = WeightFile(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
SCRIPT = WeightFile(
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
SIZE = 299

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]  # name, output channels, kernel; several of them side by side are a list
Chain = list["Step | list[Step]"]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm (epsilon 0.001), rectifier."""

    def __init__(self, width: int, out: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Several chains of convolutions on the same input, and a pool, side by side.

    Args:
        width: input channels.
        chains: the convolutions of each chain; all keep the image size, but for the last of each chain where
            ``halves`` is set.
        pool: ``"avg"`` or ``"max"``.
        pool_width: output channels of the convolution behind the pool; 0 for a pool without one.
        halves: last convolutions and pool have stride 2 and no padding.
    """

    def __init__(
        self, width: int, chains: list[Chain], pool: str, pool_width: int = 0, *, halves: bool = False
    ) -> None:
        super().__init__()
        self.pool, self.halves = pool, halves
        self.chains: list[list[list[str]]] = []
        for chain in chains:
            channels = width
            names = []
            for position, step in enumerate(chain):
                stride = 2 if halves and position == len(chain) - 1 else 1
                steps = step if isinstance(step, list) else [step]
                for name, out, kernel in steps:
                    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
                    padding = (0, 0) if stride == 2 else (rows // 2, columns // 2)
                    self.add_module(name, ConvNorm(channels, out, kernel, stride, padding))
                channels = sum(out for _, out, _ in steps)
                names.append([name for name, _, _ in steps])
            self.chains.append(names)
        self.branch_pool = ConvNorm(width, pool_width, 1) if pool_width else None

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self.chains:
            h = x
            for names in chain:
                h = torch.cat([self.get_submodule(name)(h) for name in names], 1)
            outputs.append(h)
        stride, padding = (2, 0) if self.halves else (1, 1)
        if self.pool == "avg":
            h = functional.avg_pool2d(x, 3, stride, padding, count_include_pad=False)
        else:
            h = functional.max_pool2d(x, 3, stride, padding)
        outputs.append(h if self.branch_pool is None else self.branch_pool(h))
        return torch.cat(outputs, 1)


def _double(out: int, last: int, prefix: str = "branch3x3dbl") -> Chain:
    return [(f"{prefix}_1", out, 1), (f"{prefix}_2", last, 3), (f"{prefix}_3", last, 3)]


def _mixed_5(width: int, pool_width: int) -> Mixed:
    five: Chain = [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]
    return Mixed(width, [[("branch1x1", 64, 1)], five, _double(64, 96)], "avg", pool_width)


def _mixed_6(inner: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    seven: Chain = [("branch7x7_1", inner, 1), ("branch7x7_2", inner, row), ("branch7x7_3", 192, column)]
    double: Chain = [
        ("branch7x7dbl_1", inner, 1),
        ("branch7x7dbl_2", inner, column),
        ("branch7x7dbl_3", inner, row),
        ("branch7x7dbl_4", inner, column),
        ("branch7x7dbl_5", 192, row),
    ]
    return Mixed(768, [[("branch1x1", 192, 1)], seven, double], "avg", 192)


def _mixed_7(width: int, pool: str) -> Mixed:
    row, column = (1, 3), (3, 1)
    three: Chain = [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]]
    double: Chain = [
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
    ]
    return Mixed(width, [[("branch1x1", 320, 1)], three, double], pool, 192)


class InceptionV3(nn.Module):
    """The network: 23.9 M parameters; 2048 pooled features, and the head of the file (1008 classes), not used here."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = Mixed(288, [[("branch3x3", 384, 3)], _double(64, 96)], "max", halves=True)
        self.Mixed_6b = _mixed_6(128)
        self.Mixed_6c = _mixed_6(160)
        self.Mixed_6d = _mixed_6(160)
        self.Mixed_6e = _mixed_6(192)
        seven: Chain = [
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3),
        ]
        self.Mixed_7a = Mixed(768, [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)], seven], "max", halves=True)
        self.Mixed_7b = _mixed_7(1280, "avg")
        self.Mixed_7c = _mixed_7(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        """Features: float32 ``(N, 3, 299, 299)`` in [-1, 1) to float32 ``(N, 2048)``."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))


def resize_tf1(images: Tensor, size: int = SIZE) -> Tensor:
    """TensorFlow 1's ``resize_bilinear``: pixel ``i`` of the result is taken at ``i * (old / new)`` exactly.

    Args:
        images: float32 ``(N, C, H, W)``.
        size: new height and width.

    Returns:
        float32 ``(N, C, size, size)``, to the last bit what TensorFlow computes (the order of operations is its own).
    """

    def corners(old: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(size, dtype=torch.float32) * torch.tensor(old / size, dtype=torch.float32)
        low = at.long()
        return low, (low + 1).clamp(max=old - 1), (at - low).to(images.device)

    top, bottom, down = corners(images.shape[2])
    left, right, across = corners(images.shape[3])
    upper, lower = images[:, :, top], images[:, :, bottom]
    upper = upper[..., left] + (upper[..., right] - upper[..., left]) * across
    lower = lower[..., left] + (lower[..., right] - lower[..., left]) * across
    return upper + (lower - upper) * down[:, None]


class Inception:
    """2048 pooled features of the original network; the one detector whose Frechet distance is called ``fid``.

    Args:
        device: where it computes, in float32 (TF32 is switched off around it, so that a GPU agrees with a CPU).
        weights: path or URL of one of the two published files; the ending ``.pt`` says that it is NVIDIA's.

    Raises:
        DataError: the file is absent or is not the published one.
        NomadiffError: the download failed.
    """

    name = "inception"
    version = "2015-12-05"
    dimension = 2048

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        file = SCRIPT if str(weights).endswith(".pt") else WEIGHTS
        path = resolve(file, weights)
        self.sha256 = file.sha256
        self.device = torch.device(device)
        self._features: Callable[[Tensor], Tensor]
        if file is SCRIPT:
            script, options = load_script(path, self.device)
            self._features = lambda images: script(images, **options)
        else:
            network = InceptionV3()
            load_weights(network, path)
            network.eval().requires_grad_(False).to(self.device)
            self._features = lambda images: network((resize_tf1(images.float()) - 128) / 128)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, H, W)`` of any size to float32 ``(N, 2048)``."""
        check_images(images, "detector inception", channels=3)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._features(images.to(self.device)).float()
