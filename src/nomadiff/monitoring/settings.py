"""The settings of a training that is monitored, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nomadiff.data.reading import AnyImages
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR, AnyDetector

__all__ = ["TRACKERS", "Monitoring"]

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Trackers by name; each is an extra of nomadiff too."""


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What is looked at while a model trains. None of it changes what is learned, but for images that are set apart.

    Attributes:
        validation: Real images that the model does not learn from, to measure the held-out loss on: a folder or
            whatever --real takes, or a share of the real images such as 0.1, which is set apart before training.
        grid: Samples drawn at every snapshot, always from the same noise, for grids/; 0 for none.
        evaluate_every: Images between scores of samples against the validation images, taken at the next snapshot.
        evaluate_count: Samples of each such score.
        detector: Feature space of the scores: wavelets, pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        best_by: What the best snapshot (best.safetensors) and --early-stop go by: loss (held-out) or score.
        early_stop: Stop the training when so many measurements in a row brought nothing better (patience).
        track: Where to log: tensorboard, wandb, mlflow or trackio; offline, in the run folder's tracking/, unless
            the tracker's own variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR) say otherwise. From Python a
            GeneralTracker of accelerate, too.
    """

    validation: AnyImages | float | None = None
    grid: int = 32
    evaluate_every: int | None = None
    evaluate_count: int = 256
    detector: AnyDetector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    best_by: str = "loss"
    early_stop: int | None = None
    track: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in ("evaluate_every", "evaluate_count", "early_stop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.grid < 0:
            raise UsageError(f"grid must not be negative, got {self.grid}")
        if self.best_by not in ("loss", "score"):
            raise UsageError(f"unknown best_by '{self.best_by}': choose loss or score")
        if self.best_by == "score" and self.evaluate_every is None:
            raise UsageError("best_by score needs scores: pass --evaluate-every")
        for name, option in (("evaluate_every", "--evaluate-every"), ("early_stop", "--early-stop")):
            if getattr(self, name) is not None and self.validation is None:
                raise UsageError(f"{option} needs images that the model does not learn from: pass --validation")
        if self.evaluate_every is None and (self.detector_weights is not None or self.detector != DEFAULT_DETECTOR):
            raise UsageError("a detector is for scores of samples: pass --evaluate-every too")
        share = self.share
        if share is not None and not 0 < share < 1:
            raise UsageError(f"the share of the real images for validation must lie between 0 and 1, got {share:g}")
        for tracker in self.track:
            if isinstance(tracker, str) and tracker not in TRACKERS:
                raise UsageError(f"unknown tracker '{tracker}': choose among {', '.join(TRACKERS)}")

    @property
    def share(self) -> float | None:
        """The share of the real images to set apart; None where the validation images come from elsewhere."""
        if isinstance(self.validation, str):
            try:
                return float(self.validation)
            except ValueError:
                return None
        return self.validation if isinstance(self.validation, float | int) else None
