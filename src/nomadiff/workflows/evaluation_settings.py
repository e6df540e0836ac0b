"""The settings of ``evaluate``, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomadiff.data.reading import AnyImages, Reading
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR, AnyDetector

__all__ = ["EvaluationSettings", "parse_groups"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Reading):
    """How generated images are scored. In Python groups are a mapping, ``{"animals": ["bird", "cat"]}``.

    Attributes:
        train: The real images the model was trained on; needed for replication and the list of likely copies.
        detector: Feature space: wavelets, pixels, digits, inception, dinov2, clip, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        classifier: Classifier for composition and classes; the detector itself where it classifies.
        classifier_weights: File or URL of the classifier's weights, if not its own; checked by SHA-256.
        extra: Further metrics: kid, cmmd (with --detector clip), ssim, lpips.
        lpips_weights: Files or URLs of LPIPS' AlexNet and of its heads, if not its own; checked by SHA-256.
        copies: Detector on whose features copies are looked for, such as sscd; the pixels themselves by default.
        copies_weights: File of that detector's weights.
        by_class: Score every class by itself too.
        groups: Score groups of classes by themselves too, as in animals=bird,cat.
        group_by: Column of the metadata (metadata.csv or metadata.jsonl beside the images) that says whose an image is,
            such as patient: the floor and replication then compare nobody with themselves.
        k: Neighbour of precision, recall, density and coverage.
        convention: Whose precision and recall: prdc (nearer than the radius) or kynkaanniemi (on it too, usually k 3).
        interval: Level of the confidence intervals.
        save_reference: Where to write the reference's features and statistics (.npz), to score by later.
        allow_train_as_reference: Accept a reference that is the training set, or mostly.
        device: Where the detector computes.
    """

    train: AnyImages | None = None
    detector: AnyDetector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    classifier: AnyDetector | None = None
    classifier_weights: str | None = None
    extra: Sequence[str] = ()
    lpips_weights: tuple[str, str] | None = None
    copies: AnyDetector | None = None
    copies_weights: str | None = None
    by_class: bool = False
    groups: Mapping[str, Sequence[str]] | None = None
    group_by: str | None = None
    k: int = 5
    convention: str = "prdc"
    interval: float | None = 0.95
    save_reference: str | Path | None = None
    resolution: int | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False
    allow_train_as_reference: bool = False
    device: str | None = None


def parse_groups(texts: Sequence[str]) -> dict[str, list[str]]:
    """Groups of classes from the command line: ``animals=bird,cat``.

    Raises:
        UsageError: not such a text, or a name given twice.
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, equals, classes = text.partition("=")
        members = [one.strip() for one in classes.split(",") if one.strip()]
        if not name or not equals or not members or name in groups:
            raise UsageError(f"group {text!r}: write a new name and its classes, as in animals=bird,cat")
        groups[name] = members
    return groups
