"""Options that several verbs share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from nomadiff.data.mix_spec import MixSpec
from nomadiff.models.model import Model
from nomadiff.monitoring.settings import Monitoring
from nomadiff.reports.numbers import difference_text
from nomadiff.training.config import TrainingConfig
from nomadiff.workflows.held_out import HeldOut

__all__ = [
    "ArmTraining",
    "Convention",
    "Device",
    "Drawing",
    "DrawingOptions",
    "DryRun",
    "Duration",
    "Floor",
    "HeldOutOptions",
    "HeldOutSet",
    "Hidden",
    "Images",
    "LearningRate",
    "Level",
    "Mix",
    "MixOptions",
    "Monitored",
    "MonitoringOptions",
    "Out",
    "SkipUnreadable",
    "Training",
    "TrainingOptions",
    "aligned",
    "command_line",
    "comparison_lines",
    "parse_duration",
    "parse_images",
    "score_lines",
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


Duration = Annotated[float, Parameter(converter=_convert_duration)]
Floor = Annotated[float | str, Parameter(converter=_convert_floor)]
Images = Annotated[int, Parameter(converter=_convert_images)]
LearningRate = Annotated[float, Parameter(name=["--learning-rate", "--lr"])]
Convention = Literal["prdc", "kynkaanniemi"]
Level = Annotated[float, Parameter(name=["--level", "--interval"])]
Hidden = Parameter(parse=False)
"""Of settings that only Python can give."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    # those fields of TrainingConfig that one command may set otherwise than the preset; None leaves the preset's
    __doc__ = TrainingConfig.__doc__

    budget: Images | None = None
    batch: int | None = None
    microbatch: int | None = None
    learning_rate: LearningRate | None = None
    warmup: Images | None = None
    ema_half_life: Images | None = None
    augment: float | None = None
    class_dropout: float | None = None
    precision: str | None = None
    snapshot_every: Images | None = None
    log_every: Images | None = None
    seed: int | None = None

    def changes(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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


# Settings as a command line writes them. A class that only annotates fields anew is its dataclass with other spellings:
# fields, defaults and help stay those of the settings, which Python takes too.


class MixOptions(MixSpec):
    real: str
    synthetic: tuple[str, ...]


class HeldOutOptions(HeldOut):
    reference: str | None
    detector: str


class MonitoringOptions(Monitoring):
    validation: str | None
    evaluate_every: Images | None
    evaluate_count: Images
    detector: str
    track: tuple[str, ...]


class ArmTraining(TrainingOptions):
    seed: Annotated[int | None, Hidden]  # there are --seeds


Mix = Annotated[MixOptions, Parameter(name="*")]
Drawing = Annotated[DrawingOptions, Parameter(name="*")]
Training = Annotated[TrainingOptions, Parameter(name="*")]
Monitored = Annotated[MonitoringOptions, Parameter(name="*")]
HeldOutSet = Annotated[HeldOutOptions, Parameter(name="*")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one.")]
DryRun = Annotated[bool, Parameter(negative="", help="Print the plan, its cost and what is missing; start nothing.")]
SkipUnreadable = Annotated[
    bool, Parameter(negative="", help="Leave images out that cannot be read, and name them, instead of refusing.")
]
Out = Annotated[Path, Parameter(help="Where to write; must be new, or hold the same unfinished work.")]


def command_line() -> str:
    """The command, for reports."""
    return shlex.join(["nomadiff", *sys.argv[1:]])


def score_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of ``metric``, ``value``, ``low``, ``high`` and ``floor``, and maybe ``group``, one a line, aligned."""
    cells = [["", "", "interval", "fresh real data"]]
    for row in rows:
        name = " ".join(filter(None, (row.get("group"), row["metric"])))
        interval = "" if row.get("low") is None else f"[{_number(row['low'])}, {_number(row['high'])}]"
        cells.append([name, _number(row["value"]), interval, _number(row.get("floor"))])
    return aligned(cells)


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as of :func:`score_lines` of several sets: a line a metric, a column a set; differences likewise."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    of_metric: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        of_metric.setdefault(" ".join(filter(None, (row.get("group"), row["metric"]))), {})[row["set"]] = row
    cells = [["", *sets, "fresh real data"]]
    for name, found in of_metric.items():
        values = [_number(found[each]["value"]) if each in found else "-" for each in sets]
        cells.append([name, *values, _number(next(iter(found.values())).get("floor"))])
    differences = [[f"less {sets[0]}", *sets[1:]]]
    for name, found in of_metric.items():
        if any(row.get("difference") is not None for row in found.values()):
            differences.append([name, *(difference_text(found.get(each, {})) for each in sets[1:])])
    return f"{aligned(cells)}\n\n{aligned(differences)}\n* the interval leaves out 0"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of as many texts each, in columns."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
