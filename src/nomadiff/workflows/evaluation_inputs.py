"""What ``nomadiff evaluate`` is given: sets of images, how they are scored, and what that costs; read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomadiff.data.choice import parse_choice, parse_named
from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.metadata import subjects_of
from nomadiff.data.reading import Reading
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import DEFAULT_DETECTOR, Classifier, Detector, load_classifier, load_detector
from nomadiff.metrics.intervals import validate_count
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.reference import EXTRAS, ReferenceSet
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.scoring import check_extra
from nomadiff.metrics.statistics_files import holds_statistics
from nomadiff.models.foreign import require_images
from nomadiff.processes import Processes, join_processes
from nomadiff.workflows.evaluation_cost import evaluation_cost

__all__ = ["EXTRA_METRICS", "EvaluationInputs", "EvaluationSettings", "Images", "parse_groups"]

EXTRA_METRICS = (*EXTRAS, "lpips")

Images = str | Path | ImageSource


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

    train: str | ImageSource | None = None
    detector: str | Detector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    classifier: str | Detector | None = None
    classifier_weights: str | None = None
    extra: Sequence[str] = ()
    lpips_weights: tuple[str, str] | None = None
    copies: str | Detector | None = None
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


class EvaluationInputs:
    """Everything read and checked, before the first expensive step."""

    def __init__(
        self, samples: Images | Sequence[Images], reference: str | ImageSource, settings: EvaluationSettings
    ) -> None:
        self.settings = settings
        if unknown := sorted(set(settings.extra) - set(EXTRA_METRICS)):
            raise UsageError(f"no extra metric {unknown[0]!r}: choose of {', '.join(EXTRA_METRICS)}")
        self.extra = [name for name in settings.extra if name in EXTRAS]
        self.processes: Processes = join_processes(settings.device)
        self.device = self.processes.device
        named = _named(samples)
        self.several = len(named) > 1
        train = settings.train
        for spec in (*named.values(), reference, *([] if train is None else [train])):
            if not isinstance(spec, ImageSource):
                require_images(str(spec))
        self.specs, self.reference_spec = {name: spec_text(spec) for name, spec in named.items()}, reference
        self.samples = {
            name: settings.read(spec if isinstance(spec, ImageSource) else str(spec), "samples", synthetic=True)
            for name, spec in named.items()
        }
        self.statistics = not isinstance(reference, ImageSource) and holds_statistics(reference)
        self.reference = None if self.statistics else settings.read(reference, "reference")
        self.train = None if train is None else settings.read(train, "train")
        if settings.group_by is not None and self.reference is None:
            raise UsageError("--group-by needs reference images: statistics do not say whose they are of")
        self.judge = load_detector(settings.detector, weights=settings.detector_weights, device=self.device)
        self.classifier: Classifier | None = None
        if settings.classifier is not None:
            weights = settings.classifier_weights
            self.classifier = load_classifier(settings.classifier, weights=weights, device=self.device)
        self.copies: Detector | None = None
        if settings.copies is not None:
            self.copies = load_detector(settings.copies, weights=settings.copies_weights, device=self.device)
        check_extra(self.extra, self.judge)
        self._check()
        self.lpips: LPIPS | None = None
        if "lpips" in settings.extra:
            trunk, heads = settings.lpips_weights or (None, None)
            self.lpips = LPIPS("alex", device=self.device, trunk=trunk, heads=heads)
            one = self._first.pixels[:1]
            self.lpips(one, one)

    @property
    def _first(self) -> ImageSource:
        return next(iter(self.samples.values()))

    def _check(self) -> None:
        """Validate images and settings before the first expensive step."""
        shape = tuple(self._first.pixels.shape[1:])
        others = {"reference": self.reference, "train": self.train}
        sets = {**self.samples, **{name: source for name, source in others.items() if source is not None}}
        for name, source in sets.items():
            name = name if self.several or name in others else "samples"
            if source.pixels.shape[1:] != shape:
                raise UsageError(
                    f"{next(iter(self.samples)) if self.several else 'samples'} have images of {shape}, {name} of "
                    f"{tuple(source.pixels.shape[1:])} (channels, height, width); pass --resolution if only the size "
                    "differs"
                )
            if source is not self.train and len(source) <= self.settings.k:
                k = self.settings.k
                raise UsageError(f"{name}: {len(source)} images; precision and recall with k = {k} need more than {k}")
        if self.settings.interval is not None:
            validate_count(min(map(len, self.samples.values())))
        for detector in (self.judge, self.classifier, self.copies):
            if detector is not None:
                detector(self._first.pixels[:1])

    def subjects(self, source: ImageSource) -> list[str] | None:
        """Whose the images of a set are."""
        return subjects_of(source, self.settings.group_by)

    def against(self, cache: Path) -> ReferenceSet:
        """The reference, without training images yet."""
        settings = self.settings
        measured: dict[str, Any] = {
            "detector": self.judge,
            "classifier": self.classifier,
            "device": self.device,
            "cache": cache,
            "k": settings.k,
            "convention": settings.convention,
        }
        if self.reference is None:
            return ReferenceSet.load(str(self.reference_spec), **measured)
        return ReferenceSet(
            self.reference.pixels,
            **measured,
            allow_train_as_reference=settings.allow_train_as_reference,
            subjects=self.subjects(self.reference),
            copies=self.copies,
        )

    def plan(self) -> dict[str, Any]:
        """What is there, and what scoring it will cost."""
        counts = {name: len(source) for name, source in self.samples.items()}
        found: dict[str, Any] = {"reference": spec_text(self.reference_spec)}
        found |= {f"samples {name}" if self.several else "samples": count for name, count in counts.items()}
        if self.reference is not None:
            found["reference"] = len(self.reference)
        if self.train is not None:
            found["train"] = len(self.train)
        found["detector"] = self.judge.name
        if self.train is not None and self.reference is not None:
            allowed = self.settings.allow_train_as_reference
            overlap = calibrate(self.train.pixels, self.reference.pixels, allow_train_as_reference=allowed)
            found["reference in train"] = overlap.exact + overlap.near
        for source in (self.reference, self.train):
            if source is not None and (names := self.subjects(source)) is not None:
                found[f"{self.settings.group_by} in {source.name}"] = len(set(names))
        found["cost"] = evaluation_cost(
            self.judge,
            self._first.pixels,
            list(counts.values()),
            None if self.reference is None else len(self.reference),
            0 if self.train is None else len(self.train),
            intervals=self.settings.interval is not None,
            kernels=len({"kid", "cmmd"} & set(self.extra)),
            others=[each for each in (self.classifier, self.copies) if each is not None],
        )
        return found


def _named(samples: Images | Sequence[Images]) -> dict[str, Images]:
    """The sets by name: the one given as ``name=path``, else the file's or folder's, with its folder's where needed."""
    several = [samples] if isinstance(samples, str | Path | ImageSource) else list(samples)
    if not several:
        raise UsageError("evaluate needs at least one set of generated images")
    given: list[tuple[str | None, Images]] = []
    for each in several:
        if isinstance(each, str) and len(several) > 1:
            given.append(parse_named(each))
        else:
            given.append((each.name if isinstance(each, ImageSource) else None, each))
    paths = [Path(parse_choice(str(spec)).location.rpartition(":")[2]) for _, spec in given]
    stems = [path.stem for path in paths]
    if len({name or stem for (name, _), stem in zip(given, stems)}) < len(given):
        stems = [f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem for path in paths]
    named: dict[str, Images] = {}
    for (name, spec), stem in zip(given, stems):
        name = name or stem
        if name in named:
            raise UsageError(f"two sets are called {name!r}: name them, as in first={spec_text(spec)}")
        named[name] = spec
    return named


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
