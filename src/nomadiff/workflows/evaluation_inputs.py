"""What ``nomadiff evaluate`` is given, read and checked: sets of images, and what scoring them costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nomadiff.data.choice import parse_choice, parse_named
from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.metadata import subjects_of
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.loading import load_classifier, load_detector
from nomadiff.metrics.detectors.protocol import Classifier, Detector
from nomadiff.metrics.intervals import validate_count, validate_level
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.reference import EXTRAS, ReferenceSet
from nomadiff.metrics.replication import calibrate
from nomadiff.metrics.scoring import check_extra
from nomadiff.metrics.statistics_files import holds_statistics
from nomadiff.models.foreign import require_images
from nomadiff.processes import Processes, join_processes
from nomadiff.workflows.evaluation_cost import evaluation_cost
from nomadiff.workflows.evaluation_settings import EvaluationSettings

__all__ = ["EXTRA_METRICS", "EvaluationInputs", "Images"]

EXTRA_METRICS = (*EXTRAS, "lpips")

Images = str | Path | ImageSource


class EvaluationInputs:
    """Everything read and checked, before the first expensive step."""

    def __init__(
        self, samples: Images | Sequence[Images], reference: str | ImageSource, settings: EvaluationSettings
    ) -> None:
        self.settings = settings
        needed = {
            ("copies", "train"): "copies are looked for among training images",
            ("classifier_weights", "classifier"): "they are a classifier's",
            ("copies_weights", "copies"): "they are a detector's of copies",
        }
        for (given, other), why in needed.items():
            if getattr(settings, given) is not None and getattr(settings, other) is None:
                option, missing = (f"--{name.replace('_', '-')}" for name in (given, other))
                raise UsageError(f"{option} without {missing}: {why}, so give both")
        if settings.lpips_weights is not None and "lpips" not in settings.extra:
            raise UsageError("--lpips-weights without --extra lpips: nothing would read them")
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
            validate_level(self.settings.interval)
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
            loaded = ReferenceSet.load(str(self.reference_spec), **measured)
            if loaded.features is None and (asked := sorted({"kid", "cmmd"}.intersection(self.extra))):
                raise UsageError(f"--extra {asked[0]} needs real images or features of them, not statistics alone")
            return loaded
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
            ssim="ssim" in self.extra,
            lpips=self.lpips,
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
