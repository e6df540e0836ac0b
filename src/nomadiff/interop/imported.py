"""The result of every importer: a network's configuration and weights in nomadiff's terms, and their origin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nomadiff.data.latents import LatentSpace
from nomadiff.errors import DataError
from nomadiff.networks.config import NetworkConfig
from nomadiff.safe_pickle import printable
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.sampling.solvers import Churn

__all__ = ["Imported", "Settings", "default_sampler", "is_plain"]


@dataclass(frozen=True)
class Imported:
    """A network read from a file of another tool.

    Attributes:
        network: its architecture.
        weights: its tensors, under EDM's parameter names (which are nomadiff's).
        classes: width of its label vector, 0 without labels.
        sigma_data: standard deviation its preconditioning assumes.
        sampler: the settings its authors use.
        images: how many images it was trained on, if the file says so.
        training: what is known of its training, as fields of :class:`~nomadiff.training.config.TrainingConfig`.
        facts: what else the file says, plain values fit for JSON.
        latents: the space of the latents it draws; None for a network of images.
    """

    network: NetworkConfig
    weights: dict[str, Tensor]
    classes: int
    sigma_data: float
    sampler: SamplerConfig
    images: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    latents: LatentSpace | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.classes <= 1_000_000 or not 0 < self.sigma_data < 1e6:
            raise DataError(f"this network has {self.classes} labels and sigma_data {self.sigma_data}")
        if self.latents is not None and self.latents.channels != self.network.channels:
            raise DataError(
                f"this network draws {self.network.channels} channels, its latents have {self.latents.channels}"
            )


class Settings:
    """A constructor's keyword arguments as found in a file, taken one by one so that none is overlooked.

    Args:
        values: the arguments.
        owner: the class they belong to, for messages.
    """

    def __init__(self, values: Mapping[str, Any], owner: str) -> None:
        self._values = dict(values)
        self._owner = owner

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer argument.

        Raises:
            DataError: it is absent and has no default, or is no integer.
        """
        value = self._values.pop(name, default)
        if type(value) is not int:
            raise DataError(f"{self._owner}: {name} must be an integer, got {printable(value)}")
        return value

    def number(self, name: str, default: float) -> float:
        """A float argument.

        Raises:
            DataError: it is no number.
        """
        value = self._values.pop(name, default)
        if type(value) not in (int, float) or not is_plain(value):
            raise DataError(f"{self._owner}: {name} must be a finite number, got {printable(value)}")
        return float(value)

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of integers.

        Raises:
            DataError: it is something else.
        """
        value = self._values.pop(name, default)
        if type(value) not in (list, tuple) or any(type(item) is not int for item in value):
            raise DataError(f"{self._owner}: {name} must be a list of integers, got {printable(value)}")
        return tuple(value)

    def text(self, name: str, default: str) -> str:
        """A text argument.

        Raises:
            DataError: it is something else.
        """
        value = self._values.pop(name, default)
        if type(value) is not str:
            raise DataError(f"{self._owner}: {name} must be a text, got {printable(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts.

        Raises:
            DataError: it is absent or something else.
        """
        value = self._values.pop(name, None)
        if type(value) not in (list, tuple) or any(type(item) is not str for item in value):
            raise DataError(f"{self._owner}: {name} must be a list of texts, got {printable(value)}")
        return tuple(value)

    def flag(self, name: str, default: bool) -> bool:
        """A true or false argument."""
        return bool(self._values.pop(name, default))

    def require(self, name: str, needed: Any, default: Any) -> None:
        """Accept an argument only with the value that nomadiff's network has.

        Args:
            name: the argument.
            needed: the value.
            default: what its absence means.

        Raises:
            DataError: it has another value.
        """
        value = self._values.pop(name, default)
        value = list(value) if type(value) is tuple else value
        if type(value) not in (str, int, float, bool, list, type(None)) or value != needed:
            raise DataError(f"{self._owner}: {name} is {printable(value)}; nomadiff's network has {needed}")

    def drop_none(self, *names: str) -> None:
        """Treat arguments that are None as absent."""
        for name in names:
            if self._values.get(name, 0) is None:
                del self._values[name]

    def ignore(self, *names: str) -> None:
        """Drop arguments that do not change what the network computes."""
        for name in names:
            self._values.pop(name, None)

    def finish(self) -> None:
        """Check that every argument was read.

        Raises:
            DataError: one was not: the network would not compute what the original does.
        """
        if self._values:
            raise DataError(f"{self._owner}: has the argument {', '.join(map(printable, self._values))}, unknown here")


def default_sampler(architecture: str, resolution: int) -> SamplerConfig:
    """The steps that EDM's and EDM2's authors use for a network of this kind (read-me files of both)."""
    if architecture == "edm2":
        return SamplerConfig(steps=32)
    if architecture == "adm" and resolution >= 64:
        return SamplerConfig(steps=256, churn=Churn(40, 0.05, 50, 1.003))
    return SamplerConfig(steps=18 if resolution <= 32 else 40)


def is_plain(value: Any) -> bool:
    """Whether a value of a file can be kept as JSON: a short text, a finite number, true, false or nothing."""
    if type(value) is int:
        return abs(value) < 1 << 63
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) is bool or (type(value) is str and len(value) <= 1000)
