"""Fixed filters as features: no network, no training, any image size. The default where no detector is asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, interpolate, pad

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.protocol import check_images

__all__ = ["WaveletDetector"]

OCTAVES = 4
SMALLEST = 32
LAYOUT = 4
FAINT = 0.02  # of the range 2: energies below are noise of eight bits


class WaveletDetector:
    """Layout, contrast by octave and direction, and colour: 154 numbers that mean something one by one.

    Images are in [-1, 1], as brightness and two colour differences (grey ones have none). Images with a side below 32
    pixels are enlarged to 32 (bilinear); all others keep their size. Then

    * the layout: means over a 4x4 grid, of brightness and both colours;
    * for each of four octaves, each half as large as the last: the logarithm of the mean size of the slopes in four
      directions and of the bend (Laplacian), in each quarter of the image; of the colours' bend over the whole image;
    * how far each octave's contrast lies where the next one's does, and how unevenly it is spread.

    It sees blur, noise, colour casts, missing kinds of images and lack of variety, light compression hardly
    (``benchmarks/detectors.py``). It does not know objects: a cat with five legs looks right to it.
    """

    name = "wavelets"
    version = "1"
    sha256 = ""
    dimension = 3 * LAYOUT**2 + OCTAVES * (5 * 4 + 2 + 3) + 2 * (OCTAVES - 1)

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 1 or 3, H, W)`` to float32 ``(N, 154)``.

        Raises:
            UsageError: not such images.
        """
        check_images(images, f"detector {self.name}")
        if images.shape[1] not in (1, 3):
            raise UsageError(f"detector {self.name}: needs grey or RGB images, got {images.shape[1]} channels")
        x = images.to(self.device).float() / 127.5 - 1
        if min(x.shape[2:]) < SMALLEST:
            x = interpolate(x, tuple(max(side, SMALLEST) for side in x.shape[2:]), mode="bilinear", antialias=False)
        x = _light_and_colour(x)
        found = [3 * adaptive_avg_pool2d(x, LAYOUT).flatten(1)]
        energies: list[Tensor] = []
        for octave in range(OCTAVES):
            light, colour = x[:, :1], x[:, 1:]
            sizes = torch.cat([*_slopes(light), _bend(light)], 1).abs()
            found.append(_log(adaptive_avg_pool2d(sizes, 2)))
            found.append(_log(_bend(colour).abs().mean((2, 3))))
            bend = sizes[:, -1:]
            squares = bend.square().mean((2, 3)).sqrt()
            found.append(_log(squares) - _log(bend.mean((2, 3))))  # unevenly spread: flat areas beside busy ones
            found.append(_log(sizes.amax((2, 3))[:, -1:]))
            found.append(2 * (light - light.mean((2, 3), keepdim=True)).square().mean((2, 3)).sqrt())
            energies.append(avg_pool2d(bend, 2, ceil_mode=True))
            if octave:
                near = interpolate(energies[octave], energies[octave - 1].shape[2:], mode="bilinear")
                found += _together(energies[octave - 1], near)
            x = avg_pool2d(_smooth(x), 2, ceil_mode=True)
        return torch.cat(found, 1)


def _light_and_colour(x: Tensor) -> Tensor:
    red, green, blue = x.expand(-1, 3, -1, -1).unbind(1) if x.shape[1] == 1 else x.unbind(1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([light, blue - light, red - light], 1)


def _filtered(x: Tensor, kernel: list[list[float]]) -> Tensor:
    channels = x.shape[1]
    weight = x.new_tensor(kernel).expand(channels, 1, 3, 3)
    return conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=channels)


def _slopes(x: Tensor) -> list[Tensor]:
    """In x, in y, and along both diagonals."""
    return [
        _filtered(x, [[0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]]),
        _filtered(x, [[0, -0.5, 0], [0, 0, 0], [0, 0.5, 0]]),
        _filtered(x, [[-0.5, 0, 0], [0, 0, 0], [0, 0, 0.5]]),
        _filtered(x, [[0, 0, -0.5], [0, 0, 0], [0.5, 0, 0]]),
    ]


def _bend(x: Tensor) -> Tensor:
    return _filtered(x, [[-0.0625, -0.125, -0.0625], [-0.125, 0.75, -0.125], [-0.0625, -0.125, -0.0625]])


def _smooth(x: Tensor) -> Tensor:
    return _filtered(x, [[0.0625, 0.125, 0.0625], [0.125, 0.25, 0.125], [0.0625, 0.125, 0.0625]])


def _log(sizes: Tensor) -> Tensor:
    return torch.log(sizes.flatten(1) + FAINT)


def _together(fine: Tensor, coarse: Tensor) -> list[Tensor]:
    """Correlation of two octaves' contrast, and the logarithm of their product."""
    a, b = (side - side.mean((2, 3), keepdim=True) for side in (fine, coarse))
    size = (a.square().mean((1, 2, 3)) * b.square().mean((1, 2, 3))).sqrt()
    return [
        ((a * b).mean((1, 2, 3)) / (size + FAINT**2))[:, None],
        torch.log((fine * coarse).mean((1, 2, 3)).sqrt() + FAINT)[:, None],
    ]
