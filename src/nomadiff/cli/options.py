"""Options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token

if TYPE_CHECKING:
    from nomadiff.models.model import Model

__all__ = [
    "Convention",
    "Device",
    "Drawing",
    "DrawingOptions",
    "DryRun",
    "Duration",
    "Floor",
    "Hidden",
    "Images",
    "LearningRate",
    "Level",
    "Out",
    "SkipUnreadable",
    "parse_duration",
    "parse_images",
]

_UNITS = {"": 1, "k": 1_000, "ki": 1_000, "m": 1_000_000, "mi": 1_000_000}


def parse_images(text: str) -> int:
    """A number of images: ``5Mi`` and ``5M`` are five million, ``200k`` two hundred thousand; also ``150_000``.

    "Mi" is the SIMS paper's unit, million images seen.

    Raises:
        ValueError: not such a number.
    """
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"'{text}' is no number of images: write 150000, 200k or 5Mi")
    return round(float(re.sub("[_,]", "", match[1])) * _UNITS[match[2]])


def _convert_images(hint: Any, tokens: Sequence[Token]) -> int:
    return parse_images(tokens[0].value)


def parse_duration(text: str) -> float:
    """Seconds of ``90m``, ``3h``, ``2d`` or ``45s``.

    Raises:
        ValueError: not such a duration.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", text.strip().lower())
    if match is None:
        raise ValueError(f"'{text}' is no duration: write 90m, 3h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _convert_duration(hint: Any, tokens: Sequence[Token]) -> float:
    return parse_duration(tokens[0].value)


def _convert_floor(hint: Any, tokens: Sequence[Token]) -> float | str:
    text = tokens[0].value
    return text if text == "auto" else float(text)


Duration = Annotated[float, Parameter(converter=_convert_duration, metavar="DURATION")]
Floor = Annotated[float | str, Parameter(converter=_convert_floor, metavar="SIGMA|auto")]
Images = Annotated[int, Parameter(converter=_convert_images, metavar="IMAGES")]
LearningRate = Annotated[float, Parameter(name=["--learning-rate", "--lr"])]
Convention = Literal["prdc", "kynkaanniemi"]
Level = Annotated[float, Parameter(name=["--level", "--interval"])]
Hidden = Parameter(parse=False)
"""Of settings that only Python can give."""


Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one.")]
DryRun = Annotated[bool, Parameter(negative="", help="Print the plan, its cost and what is missing; start nothing.")]
SkipUnreadable = Annotated[
    bool, Parameter(negative="", help="Leave images out that cannot be read, and name them, instead of refusing.")
]
Out = Annotated[Path, Parameter(help="Where to write; must be new, or hold the same unfinished work.")]


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How images are drawn from a model.

    Attributes:
        seed: Seed of the set.
        source: Source to draw of a model that knows several; "real" unless asked by name.
        class_label: The one class to draw from a class-conditional model, by name or number.
        classes: real, as often as the real training images have them (the default); uniform; or shares of some, such as
            cat=0.3,dog=0.1.
        steps: Solver steps; the model's own by default.
        batch_size: Images drawn together; fewer where a GPU's memory holds no more.
        precision: What networks compute in: fp32, bf16, fp16, or auto (the default): half precision for a model that
            was trained in it, where the machine is fast at it.
        vae: Autoencoder of a model of latents (folder or hf:USER/NAME), if it is not where its recipe says.
    """

    seed: int = 0
    source: str = "real"
    class_label: Annotated[str | None, Parameter(name=["--class-label", "--class"])] = None
    classes: str | None = None
    steps: int | None = None
    batch_size: int | None = None
    precision: str = "auto"
    vae: str | None = None

    def of(self, model: Model, *, solver: str | None = None) -> dict[str, Any]:
        """Options of :meth:`~nomadiff.models.model.Model.sample_batches`."""
        own = model.known.sampler
        return {
            "source": self.source,
            "class_label": self.class_label,
            "classes": self.classes,
            "sampler": replace(own, solver=solver or own.solver, steps=own.steps if self.steps is None else self.steps),
            "batch_size": self.batch_size,
            "precision": self.precision,
        }


Drawing = Annotated[DrawingOptions, Parameter(name="*")]
