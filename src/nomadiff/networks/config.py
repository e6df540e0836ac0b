"""What a network is made of, as plain values: the part of a checkpoint's config from which the network is rebuilt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nomadiff.errors import UsageError

__all__ = ["NetworkConfig"]

ARCHITECTURES = ("ddpmpp", "ncsnpp", "adm", "edm2", "unet2d")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(map(_is_int, value)),
}


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a denoising network, without its labels.

    The width of the label vector (sources + classes) is not part of it: one configuration serves DM (no labels), SDA
    (no labels) and CASD (K + 1 sources), and is passed to :func:`~nomadiff.networks.build.build_network`.

    Attributes:
        architecture: "ddpmpp" or "ncsnpp" (Song et al. 2021, as trained by EDM), "adm" (Dhariwal and Nichol 2021, as
            trained by EDM), "edm2" (Karras et al. 2024) or "unet2d" (a ``UNet2DModel`` of diffusers).
        resolution: height and width of the images, pixels.
        channels: channels of the images.
        model_channels: width of the network; level i has ``model_channels * channel_mult[i]`` channels.
        channel_mult: one factor a level; each level halves the resolution of the one before.
        blocks: residual blocks a level in the encoder (the decoder has one more).
        attention: resolutions at which blocks attend to all pixels. The lowest level always has one attention block.
        dropout: probability of dropping an activation inside a block while training.
        channel_mult_embedding: width of the embedding in units of ``model_channels``.
        augment_dim: width of the augmentation label: 9 for :class:`~nomadiff.training.augment.Augment`, 0 without.
        channels_per_head: width of one attention head in "adm" and "edm2"; the others have a single head.
        patch: height and width of the pixels that the network takes as one (space to depth): with 2, a 32 x 32 image
            is a 16 x 16 one of four times the channels to it, at a quarter of the cost. "ddpmpp" only.
        settings: for "unet2d", the configurations of diffusers' model and scheduler as JSON; empty for the others.
    """

    architecture: str
    resolution: int
    channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    dropout: float = 0.0
    channel_mult_embedding: int = 4
    augment_dim: int = 0
    channels_per_head: int = 64
    patch: int = 1
    settings: str = ""

    @property
    def level_resolutions(self) -> tuple[int, ...]:
        """Resolution of every level, highest first."""
        return tuple(self.resolution // self.patch >> level for level in range(len(self.channel_mult)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values ready for JSON (tuples as lists)."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            UsageError: a key is unknown or missing, or a value is of the wrong kind; the message names it.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - fields.keys()):
            raise UsageError(f"unknown network setting {', '.join(unknown)}; known: {', '.join(fields)}")
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - values.keys()):
            raise UsageError(f"network setting {', '.join(missing)} is missing")
        settings: dict[str, Any] = {}
        for name, value in values.items():
            settings[name] = tuple(value) if isinstance(value, list) else value
            if not _KINDS[str(fields[name].type)](settings[name]):
                raise UsageError(f"network setting {name} must be {fields[name].type}, got {value!r}")
        return cls(**settings)

    def validate(self) -> None:
        """Check that such a network can be built.

        Raises:
            UsageError: says which setting does not fit and what would.
        """
        if self.architecture not in ARCHITECTURES:
            raise UsageError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if bool(self.settings) != (self.architecture == "unet2d"):
            raise UsageError(
                "network settings belong to unet2d, which needs them; the others are described by the rest"
            )
        for name in (
            "resolution",
            "channels",
            "model_channels",
            "blocks",
            "channel_mult_embedding",
            "channels_per_head",
            "patch",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"network {name} must be at least 1, got {getattr(self, name)}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise UsageError(f"network channel_mult must hold factors of at least 1, got {self.channel_mult}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"network dropout must lie in [0, 1), got {self.dropout}")
        if self.augment_dim < 0:
            raise UsageError(f"network augment_dim must not be negative, got {self.augment_dim}")
        if self.architecture == "edm2" and self.augment_dim:
            raise UsageError("the edm2 network takes no augmentation label: set augment_dim to 0")
        if self.patch > 1 and self.architecture != "ddpmpp":
            raise UsageError(f"the {self.architecture} network takes pixels one by one: set patch to 1")
        if self.architecture in ("adm", "edm2"):
            attending = {m for r, m in zip(self.level_resolutions, self.channel_mult) if r in self.attention}
            for mult in sorted(attending | {self.channel_mult[-1]}):
                if self.model_channels * mult % self.channels_per_head:
                    raise UsageError(
                        f"a layer of {self.model_channels * mult} channels cannot be split into attention heads of "
                        f"{self.channels_per_head}: change model_channels or channels_per_head"
                    )
        halvings = len(self.channel_mult) - 1
        if self.resolution % (self.patch << halvings):
            patches = f" in patches of {self.patch}" if self.patch > 1 else ""
            raise UsageError(
                f"resolution {self.resolution}{patches} cannot be halved {halvings} times: resize the images to a "
                f"multiple of {self.patch << halvings} or give channel_mult fewer levels"
            )
        if absent := [res for res in self.attention if res not in self.level_resolutions]:
            raise UsageError(
                f"attention at resolution {', '.join(map(str, absent))} is not possible: "
                f"the levels have resolution {', '.join(map(str, self.level_resolutions))}"
            )
