"""The architecture of a network as plain values: the part of a checkpoint's config that rebuilds it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from nomadiff.errors import UsageError
from nomadiff.networks.own import check_own, is_own_denoiser, own_name
from nomadiff.plain import from_plain, parse_json
from nomadiff.safe_pickle import printable

__all__ = ["NetworkConfig", "check_settings"]

ARCHITECTURES = ("ddpmpp", "ncsnpp", "adm", "edm2", "unet2d")


# far beyond any network in use: a recipe may come from anywhere, and is checked before anything is built
_LARGEST = {
    "resolution": 8192,
    "channels": 1024,
    "model_channels": 8192,
    "blocks": 64,
    "channel_mult_embedding": 64,
    "augment_dim": 1024,
    "channels_per_head": 8192,
}
_MOST_LEVELS = 12
_LARGEST_FACTOR = 64

# the same for the settings of diffusers' model and scheduler; others may be a text, a flag or a number
_LARGEST_SETTING = {"layers_per_block": 64, "num_train_timesteps": 100_000, "num_class_embeds": 1_000_000}
_LARGEST_NUMBER = 1 << 20
_LONGEST_LIST = {"trained_betas": 100_000}


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a denoising network, without its labels.

    The width of the label vector (sources + classes) is not part of it: one configuration serves DM (no labels), SDA
    (no labels) and CASD (K + 1 sources), and is passed to :func:`~nomadiff.networks.build.build_network`.

    Attributes:
        architecture: "ddpmpp" or "ncsnpp" (Song et al. 2021, as trained by EDM), "adm" (Dhariwal and Nichol 2021, as
            trained by EDM), "edm2" (Karras et al. 2024), "unet2d" (a ``UNet2DModel`` of diffusers), or a class of a
            user's own, ``module:qualname``, see :meth:`own`.
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
        settings: as JSON, for "unet2d" the configurations of diffusers' model and scheduler, for a network of a user's
            own further keywords of its constructor; empty for the others.
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

    @classmethod
    def own(
        cls,
        network: type[nn.Module] | partial[nn.Module] | str,
        *,
        resolution: int = 32,
        channels: int = 3,
        **settings: Any,
    ) -> NetworkConfig:
        """A network of your own: what it must be, see :mod:`nomadiff.networks.own`.

        Args:
            network: its class, or that class with settings bound (``functools.partial``), or its name.
            resolution, channels: of the images; every method sets them by its data.
            **settings: further keywords of its constructor, plain values.

        Raises:
            UsageError: it is no such class, or does not take these settings.
        """
        name, text = own_name(network, settings)
        config = cls(name, resolution, channels, 1, (1,), 1, (), settings=text)  # of the rest it knows nothing
        config.validate()
        return config

    @property
    def is_own(self) -> bool:
        """Whether it is a class of a user's own."""
        return ":" in self.architecture

    @property
    def is_own_denoiser(self) -> bool:
        """Whether it is a user's own and a denoiser by itself."""
        return self.is_own and is_own_denoiser(self.architecture)

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
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: a key is unknown or missing, or a value is of the wrong kind; the message names it.
        """
        return from_plain(cls, values, "network")

    def validate(self) -> None:
        """Check that such a network can be built.

        Raises:
            UsageError: says which setting does not fit and what would.
        """
        if self.architecture not in ARCHITECTURES and not self.is_own:
            raise UsageError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if bool(self.settings) != (self.architecture == "unet2d") and not self.is_own:
            raise UsageError(
                "network settings belong to unet2d, which needs them; the others are described by the rest"
            )
        for name, largest in _LARGEST.items():
            if getattr(self, name) > largest:
                raise UsageError(f"network {name} is {getattr(self, name):,}, more than {largest:,}")
        if len(self.channel_mult) > _MOST_LEVELS or max(self.channel_mult, default=1) > _LARGEST_FACTOR:
            raise UsageError(f"network channel_mult {printable(self.channel_mult)}: no U-Net has such levels")
        if self.is_own:
            check_settings(check_own(self.architecture, self.settings))
            if self.augment_dim:
                raise UsageError("a network of your own takes no augmentation label: set augment_dim to 0")
        elif self.settings:
            _check_settings(self.settings)
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
                # as many heads as fit, of equal width; a layer narrower than one head has no attention, as EDM has it
                if self.model_channels * mult % max(self.model_channels * mult // self.channels_per_head, 1):
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


def _check_settings(text: str) -> None:
    """Check that settings of diffusers' model and scheduler are two tables of plain values."""
    settings = parse_json(text, "network settings", dict)
    for part in ("unet", "scheduler"):
        if type(settings.get(part)) is not dict:
            raise UsageError(f"network settings hold no table '{part}'")
        check_settings(settings[part])


def check_settings(settings: dict[str, Any]) -> None:
    """Check, before a model of another tool is built, that its settings are within the limits.

    Raises:
        UsageError: names the setting that is not.
    """
    for name, value in settings.items():
        _check_setting(name, value, _LARGEST_SETTING.get(name, _LARGEST_NUMBER))


def _check_setting(name: str, value: Any, largest: int) -> None:
    if type(value) in (list, dict):
        if len(value) > _LONGEST_LIST.get(name, 64):
            raise UsageError(f"network setting {printable(name)} has {len(value):,} entries")
        for item in value.values() if type(value) is dict else value:
            _check_setting(name, item, largest)
    elif name == "lambda_min_clipped" and value == -math.inf:  # diffusers' own default for "not clipped"
        return
    elif type(value) in (int, float) and not -largest <= value <= largest:
        raise UsageError(f"network setting {printable(name)} is {printable(value)}, beyond {largest:,}")
