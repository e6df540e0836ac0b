"""Files of StyleGAN2-ADA and StyleGAN3 for PyTorch: the generator in them, rebuilt without running what they carry.

A file holds its networks as trees of objects with their attributes and tensors (``torch_utils.persistence``), and the
source text of their classes, which is dropped. What a layer computes is read from its own attributes, not from the
arguments of a constructor: those leave out whatever had its default, and defaults differ between versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from nomadiff.errors import DataError
from nomadiff.files import require_regular
from nomadiff.interop.imported import Settings, is_plain
from nomadiff.interop.torch_files import Module, read_torch_file
from nomadiff.networks.stylegan import Dense, Mapping, StyleGenerator
from nomadiff.networks.stylegan2 import Styled, Synthesis2, Synthesis2Block, ToImage, Widened
from nomadiff.networks.stylegan3 import Filtered, Fourier, Synthesis3
from nomadiff.pickled_values import Array
from nomadiff.safe_pickle import printable

__all__ = ["generator_in", "read_stylegan"]

_LARGEST_IMAGE = 2048  # the published ones end at 1024
_MOST_LAYERS = 64
_MOST_CHANNELS = 8192
_MOST_CLASSES = 1_000_000
_MOST_TAPS = 128
_LARGEST_FACTOR = 16
_ARCHITECTURES = ("orig", "skip", "resnet")


def read_stylegan(path: str | Path) -> tuple[StyleGenerator, dict[str, Any]]:
    """The generator in a file: the averaged one (``G_ema``) of a snapshot.

    Args:
        path: a pickle of StyleGAN2-ADA or StyleGAN3 for PyTorch.

    Returns:
        The generator on the CPU, in float32, and what else the file says (plain values).

    Raises:
        DataError: the file is damaged, would have to run code, or holds no generator of StyleGAN2 or StyleGAN3.
    """
    path = Path(path)
    contents = read_torch_file(path)
    module = generator_in(contents)
    if module is None:
        raise DataError(f"{path}: holds no generator of StyleGAN (no G_ema); nomadiff import reads EDM and EDM2")
    try:
        part = _Part(module, "G_ema")
        part.check_size(require_regular(path))
        generator = _generator(part)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    data = contents.get("training_set_kwargs") if type(contents) is dict else None
    known = {name: value for name, value in data.items() if is_plain(value)} if type(data) is dict else {}
    return generator.eval(), {"dataset": known} if known else {}


def generator_in(contents: Any) -> Module | None:
    """The averaged generator of what :func:`~nomadiff.interop.torch_files.read_torch_file` gave, or None."""
    found = contents.get("G_ema", contents.get("G")) if type(contents) is dict else contents
    return found if isinstance(found, Module) and found.class_name == "Generator" else None


class _Part:
    """One object of the tree: its attributes and tensors, checked as they are taken.

    Args:
        module: the object.
        name: where it stands in the tree.
    """

    def __init__(self, module: Module, name: str) -> None:
        self.name, self._module = name, module
        self.settings = Settings(module.state if type(module.state) is dict else {}, name)

    def refuse(self, reason: str) -> NoReturn:
        """Raise for a part that nomadiff cannot rebuild."""
        raise DataError(f"{self.name}: {reason}")

    def check_size(self, size: int) -> None:
        """Refuse tensors that share their numbers so often that they hold more than the file's ``size`` bytes."""
        held = sum(value.numel() * value.element_size() for value in self._module.state_dict().values())
        if held > size:
            self.refuse(f"refused: {held:,} bytes of weights in a file of {size:,}")

    def _entry(self, kind: str, name: str) -> Any:
        table = self._module.attribute(kind)
        return table.get(name) if type(table) is dict else None

    def has(self, name: str) -> bool:
        """Whether it has a part or a tensor of that name."""
        return any(self._entry(kind, name) is not None for kind in ("_modules", "_parameters", "_buffers"))

    def part(self, name: str) -> _Part:
        """A part of this part."""
        found = self._entry("_modules", name)
        if not isinstance(found, Module):
            self.refuse(f"has no {name}")
        return _Part(found, f"{self.name}.{name}")

    def tensor(self, name: str, *shape: int | None) -> Tensor:
        """A tensor of this shape (None: any length), float32, of finite numbers."""
        found = self._entry("_parameters", name)
        found = self._entry("_buffers", name) if found is None else found
        if not isinstance(found, Tensor) or not found.is_floating_point():
            self.refuse(f"has no {name} of real numbers")
        if found.ndim != len(shape) or any(need not in (None, have) for need, have in zip(shape, found.shape)):
            wanted = "x".join("any" if length is None else str(length) for length in shape)
            self.refuse(f"{name} has the shape {'x'.join(map(str, found.shape))}, not {wanted}")
        found = found.float().contiguous()
        if not found.isfinite().all():
            self.refuse(f"{name} has numbers that are not finite")
        return found

    def filter(self, name: str) -> Tensor:
        """A filter: for both directions, or square."""
        found = self._entry("_buffers", name)
        kernel = self.tensor(name, *((None,) * max(1, found.ndim if isinstance(found, Tensor) else 1)))
        if kernel.ndim > 2 or kernel.shape[0] != kernel.shape[-1] or not 1 <= kernel.shape[0] <= _MOST_TAPS:
            self.refuse(f"{name} is no filter of at most {_MOST_TAPS} taps")
        return kernel

    def integer(self, name: str, least: int, most: int) -> int:
        """An attribute between bounds."""
        value = self.settings.integer(name)
        if not least <= value <= most:
            self.refuse(f"{name} is {printable(value)}, not between {least} and {most}")
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """An attribute between bounds, a real number."""
        value = self.settings.number(name, math.nan)
        if not least <= value <= most:
            self.refuse(f"{name} is {printable(value)}, not between {least:g} and {most:g}")
        return value

    def limit(self) -> float | None:
        """What outputs are clipped to; None if they are not."""
        return None if self._module.attribute("conv_clamp", 0) is None else self.number("conv_clamp", 1e-6, 1e9)

    def side(self, name: str) -> int:
        """Height and width, which must be one, of a size kept as numpy's array or as numbers."""
        value = self._module.attribute(name)
        value = value.value.tolist() if isinstance(value, Array) and value.value is not None else value
        sides = list(value) if type(value) in (list, tuple) else [value]
        if len(sides) not in (1, 2) or any(type(side) is not int or side != sides[0] for side in sides):
            self.refuse(f"{name} is {printable(value)}, not a square")
        if not 1 <= sides[0] <= 2 * _LARGEST_IMAGE:
            self.refuse(f"{name} is {printable(sides[0])} pixels")
        return int(sides[0])

    def dense(self, name: str, outputs: int | None, inputs: int | None) -> Dense:
        """A fully connected layer, gains multiplied in."""
        layer = self.part(name)
        activation = layer.settings.text("activation", "")
        if activation not in ("linear", "lrelu"):
            layer.refuse(f"activation is {printable(activation)}; nomadiff has linear and lrelu")
        weight = layer.tensor("weight", outputs, inputs) * layer.number("weight_gain", 0, 1e6)
        bias = layer.tensor("bias", weight.shape[0]) * layer.number("bias_gain", 0, 1e6)
        return Dense(weight, bias, activated=activation == "lrelu")


def _generator(part: _Part) -> StyleGenerator:
    w_dim = part.integer("w_dim", 1, _MOST_CHANNELS)
    resolution = part.integer("img_resolution", 4, _LARGEST_IMAGE)
    channels = part.integer("img_channels", 1, 4)
    if channels not in (1, 3):
        part.refuse(f"draws {channels} channels; images have 1 or 3")
    z_dim = part.integer("z_dim", 1, _MOST_CHANNELS)
    classes = part.integer("c_dim", 0, _MOST_CLASSES)
    mapping = _mapping(part.part("mapping"), z_dim, classes, w_dim)
    synthesis = part.part("synthesis")
    build: Callable[[_Part, int, int, int], tuple[nn.Module, int]]
    kind, build = ("stylegan3", _synthesis3) if synthesis.has("input") else ("stylegan2", _synthesis2)
    network, ws = build(synthesis, w_dim, resolution, channels)
    return StyleGenerator(
        mapping, network, z_dim=z_dim, ws=ws, classes=classes, resolution=resolution, channels=channels, kind=kind
    )


def _mapping(part: _Part, z_dim: int, classes: int, w_dim: int) -> Mapping:
    embed = part.dense("embed", None, classes) if classes else None
    width = z_dim if embed is None else z_dim + embed.weight.shape[0]
    layers = []
    for number in range(part.integer("num_layers", 1, _MOST_LAYERS)):
        layers.append(part.dense(f"fc{number}", None, width))
        width = layers[-1].weight.shape[0]
    if width != w_dim:
        part.refuse(f"ends with {width} numbers; w has {w_dim}")
    return Mapping(layers, embed, part.tensor("w_avg", w_dim) if part.has("w_avg") else None)


def _synthesis2(part: _Part, w_dim: int, resolution: int, channels: int) -> tuple[Synthesis2, int]:
    """StyleGAN2's synthesis, and how many ``w`` it takes."""
    if resolution & (resolution - 1):
        part.refuse(f"a resolution of {resolution}; StyleGAN2's are powers of 2")
    const = part.part("b4").tensor("const", None, 4, 4)
    width, size, blocks, ws = const.shape[0], 4, [], 1
    while size <= resolution:
        block = part.part(f"b{size}")
        architecture = block.settings.text("architecture", "")
        if architecture not in _ARCHITECTURES:
            block.refuse(f"architecture is {printable(architecture)}; StyleGAN2's are {', '.join(_ARCHITECTURES)}")
        smooth = block.filter("resample_filter")
        shortcut = None
        if architecture == "resnet" and size > 4:
            skip = block.part("skip")
            weight = skip.tensor("weight", None, width, 1, 1) * skip.number("weight_gain", 0, 1e6)
            shortcut = Widened(weight, skip.filter("resample_filter"), skip.limit())
        layers = [] if size == 4 else [_styled(block.part("conv0"), w_dim, width, size, doubles=True)]
        width = layers[0].weight.shape[0] if layers else width
        layers.append(_styled(block.part("conv1"), w_dim, width, size, doubles=False))
        width = layers[-1].weight.shape[0]
        if shortcut is not None and shortcut.weight.shape[0] != width:
            block.refuse(f"its shortcut has {shortcut.weight.shape[0]} channels, the block {width}")
        image = None
        if architecture == "skip" or size == resolution:
            colours = block.part("torgb")
            weight = colours.tensor("weight", channels, width, 1, 1) * colours.number("weight_gain", 0, 1e6)
            bias = colours.tensor("bias", channels)
            image = ToImage(colours.dense("affine", width, w_dim), weight, bias, colours.limit())
        blocks.append(Synthesis2Block(layers, image, smooth, shortcut))
        ws += len(layers)
        size *= 2
    return Synthesis2(const, blocks), ws


def _styled(part: _Part, w_dim: int, width: int, size: int, doubles: bool) -> Styled:
    part.settings.require("up", 2 if doubles else 1, default=None)
    part.settings.require("activation", "lrelu", default=None)
    weight = part.tensor("weight", None, width, 3, 3)
    bias = part.tensor("bias", weight.shape[0])
    noise = None
    if part.settings.flag("use_noise", False):
        noise = part.tensor("noise_const", size, size), part.tensor("noise_strength")
    smooth = part.filter("resample_filter") if doubles else None
    return Styled(part.dense("affine", width, w_dim), weight, bias, smooth, noise, part.limit())


def _synthesis3(part: _Part, w_dim: int, resolution: int, channels: int) -> tuple[Synthesis3, int]:
    """StyleGAN3's synthesis, and how many ``w`` it takes."""
    source = _fourier(part.part("input"), w_dim)
    names = part.settings.texts("layer_names")
    if not 1 <= len(names) <= _MOST_LAYERS:
        part.refuse(f"{len(names):,} layers; up to {_MOST_LAYERS} are read")
    width, size, layers = source.weight.shape[0], source.size, []
    for number, name in enumerate(names, 1):
        layer, size = _filtered(part.part(name), w_dim, width, size, colours=number == len(names))
        layers.append(layer)
        width = layer.weight.shape[0]
    if (width, size) != (channels, resolution):
        part.refuse(f"draws {size}x{size} pixels of {width} channels, not {resolution}x{resolution} of {channels}")
    return Synthesis3(source, layers, part.number("output_scale", 1e-6, 1e6)), len(names) + 1


def _fourier(part: _Part, w_dim: int) -> Fourier:
    frequencies = part.tensor("freqs", None, 2)
    width = frequencies.shape[0]
    rate = part.number("sampling_rate", 1, _LARGEST_IMAGE)
    return Fourier(
        part.dense("affine", 4, w_dim),
        frequencies,
        part.tensor("phases", width),
        part.tensor("transform", 3, 3),
        part.tensor("weight", width, width),
        part.side("size"),
        rate,
        part.number("bandwidth", 0, rate / 2 - 1e-6),
    )


def _filtered(part: _Part, w_dim: int, width: int, size: int, colours: bool) -> tuple[Filtered, int]:
    """A layer, and the side of what it makes of ``size`` pixels."""
    part.settings.require("is_torgb", colours, default=None)
    weight = part.tensor("weight", None, width, None, None)
    kernel = weight.shape[2]
    if weight.shape[3] != kernel or kernel not in (1, 3):
        part.refuse(f"a kernel of {kernel}x{weight.shape[3]}; StyleGAN3's are 1x1 and 3x3")
    up, down = (part.integer(f"{name}_factor", 1, _LARGEST_FACTOR) for name in ("up", "down"))
    filters = tuple(part.filter(name) if part.has(name) else None for name in ("up_filter", "down_filter"))
    pad = part.settings.integers("padding", ())
    if len(pad) != 4 or pad[:2] != pad[2:] or any(abs(length) > 4 * _LARGEST_IMAGE for length in pad):
        part.refuse(f"padding is {printable(pad)}")
    taps = [1 if kernel_1d is None else kernel_1d.shape[0] for kernel_1d in filters]
    between = (size + kernel - 1) * up + pad[0] + pad[1] - (taps[0] - 1)
    made = (between - taps[1]) // down + 1
    if between < taps[1] or made != part.side("out_size") or between > 8 * _LARGEST_IMAGE:
        part.refuse(f"makes {made} pixels of {size}, not those of its out_size")
    layer = Filtered(
        part.dense("affine", width, w_dim),
        weight,
        part.tensor("bias", weight.shape[0]),
        part.tensor("magnitude_ema"),
        (filters[0], filters[1]),
        (up, down),
        (pad[0], pad[1]),
        part.limit(),
        colours,
    )
    if not layer.input_gain.isfinite():
        part.refuse("magnitude_ema is not positive")
    return layer, made
