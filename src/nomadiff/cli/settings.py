"""Settings that several verbs share, as a command line writes them.

A class that only annotates fields anew is its dataclass with other spellings: fields, defaults and help stay those of
the settings, which Python takes too. Here and in the verbs' files such a class has no docstring of its own: what each
option means is written once, in the settings' docstring, from which the help is made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nomadiff.cli.options import Hidden, Images, LearningRate
from nomadiff.data.mix_spec import MixSpec
from nomadiff.monitoring.settings import Monitoring
from nomadiff.training.settings import TrainingConfig
from nomadiff.workflows.held_out import HeldOut

__all__ = [
    "ArmTraining",
    "HeldOutOptions",
    "HeldOutSet",
    "Mix",
    "MixOptions",
    "Monitored",
    "MonitoringOptions",
    "Training",
    "TrainingOptions",
]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    # those fields of TrainingConfig that one command may set otherwise than the preset; None leaves the preset's
    __doc__ = TrainingConfig.__doc__

    budget: Images | None = None
    batch: int | None = None
    microbatch: int | Literal["auto"] | None = None
    checkpoint_gradients: Annotated[bool | None, Parameter(negative="")] = None
    learning_rate: LearningRate | None = None
    warmup: Images | None = None
    ema_half_life: Images | None = None
    augment: float | None = None
    class_dropout: float | None = None
    precision: str | None = None
    compile: bool | None = None
    snapshot_every: Images | None = None
    log_every: Images | None = None
    seed: int | None = None

    def changes(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class MixOptions(MixSpec):
    real: str
    synthetic: tuple[str, ...]


class TrainedMix(MixOptions):
    real_fraction: float | None


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


Mix = Annotated[TrainedMix, Parameter(name="*")]
Training = Annotated[TrainingOptions, Parameter(name="*")]
Monitored = Annotated[MonitoringOptions, Parameter(name="*")]
HeldOutSet = Annotated[HeldOutOptions, Parameter(name="*")]
