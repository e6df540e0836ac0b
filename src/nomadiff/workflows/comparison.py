"""The settings of a comparison (CASD section 4) as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.reading import AnyImages
from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR, AnyDetector
from nomadiff.plain import plain_settings, with_tuples

if TYPE_CHECKING:
    from nomadiff.data.source_mix import SourceMix
    from nomadiff.methods.method import Method
    from nomadiff.training.presets import AnyPreset
    from nomadiff.workflows.arms import Arm
else:  # as data/reading.py does
    SourceMix = Method = AnyPreset = Any

__all__ = ["Comparison"]

_SEARCHED = {"sda": "weighted", "casd": "casd+weighted"}  # what finds the share of real images, and then is the same


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The settings of a comparison.

    Attributes:
        mix: Real and synthetic images, to read or read already. ``{seed}`` in a subset is replaced by each seed. With a
            real fraction of "auto" sda and casd search theirs, as the methods weighted and casd+weighted do.
        reference: Held-out real images that no model sees.
        out: Folder for runs, metrics and report.
        methods: Methods to compare, as for train; from Python classes too. One that guides a base brings its control:
            the base's method with the same budget, the base trained on as many more images.
        preset: Network and training to start from (see nomadiff presets); one that suits the images and the device by
            default.
        seeds: Seeds. One set of models is trained for each.
        changes: Training options that differ from the preset's, the same for every model.
        floor: Of ambient: the noise level sigma below which no synthetic image teaches; auto, the default, finds one
            for each image.
        together: Train on all synthetic sources at once (labels 1..K) instead of one at a time.
        class_labels: Condition on the images' class labels too.
        validation: Real images to measure every model's held-out loss on while it trains, or a share of the real images
            to set apart for that: a model whose loss still falls fast at the end is called untrained.
        count: Samples of every model.
        detector: Feature space of the metrics: wavelets, pixels, digits, inception, ... or a TorchScript file.
        detector_weights: File or URL of the detector's weights, if not its own; checked by SHA-256.
        classifier: Classifier for the class composition; by default the detector itself where it classifies.
        classifier_weights: File or URL of the classifier's weights, if not its own; checked by SHA-256.
        group_by: Column of the metadata that says whose an image is, such as patient: the floor and replication then
            compare nobody with themselves.
        similarity: Measure SSIM between samples and to the nearest training image too (CASD Table 3).
        allow_train_as_reference: Accept a reference that is the training set, or mostly.
        workers: Models trained side by side; by default one a GPU, or one a CPU core. 0 writes the plan, for work.
        gpus_per_job: GPUs that train and sample one model together, through torchrun; on a CPU as many processes.
        device: Where to compute.
        title: Title of the report.
        command: The command line, printed in the report.
        notes: Limitations, printed in the report.
    """

    mix: MixSpec | SourceMix
    reference: AnyImages
    out: Path
    methods: tuple[str | type[Method], ...] = ("dm", "sda", "casd")
    preset: AnyPreset | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    changes: Mapping[str, Any] = field(default_factory=dict)
    floor: float | str | None = None
    together: bool = False
    class_labels: bool = False
    validation: str | float | None = None
    count: int = 1000
    detector: AnyDetector = DEFAULT_DETECTOR
    detector_weights: str | None = None
    classifier: AnyDetector | None = None
    classifier_weights: str | None = None
    group_by: str | None = None
    similarity: bool = False
    allow_train_as_reference: bool = False
    workers: int | None = None
    gpus_per_job: int = 1
    device: str | None = None
    title: str = "Does synthetic data help here?"
    command: str = ""
    notes: tuple[str, ...] = ()

    @property
    def mix_spec(self) -> MixSpec:
        """The mix as what an arm is given."""
        return self.mix if isinstance(self.mix, MixSpec) else MixSpec.of(self.mix)

    def with_preset(self) -> Comparison:
        """The same with the preset that suits its images and device, where none was named.

        Raises:
            UsageError, DataError: the real images cannot be read, or none suits.
        """
        from nomadiff.processes import join_processes
        from nomadiff.training.presets import proposed_preset
        from nomadiff.workflows.arms import with_seed

        if self.preset is not None:
            return self
        spec = with_seed(self.mix_spec, self.seeds[0])
        real = spec.read(spec.real, "real", subset="first:1", classes=spec.real_classes)
        device = join_processes(self.device).device
        return replace(self, preset=proposed_preset(real.resolution, real.channels, device))

    def to_dict(self) -> dict[str, Any] | None:
        """Its settings as plain values, for other processes; None where some of them are objects in memory."""
        values = {name: value for name, value in vars(self).items() if name != "out"}
        if not isinstance(self.mix, MixSpec):
            return None
        return plain_settings("compare", {**values, "mix": dict(vars(self.mix)), "changes": dict(self.changes)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], out: Path) -> Comparison:
        """The comparison that :meth:`to_dict` gave, in a folder.

        Raises:
            DataError: the values are no settings of a comparison.
        """
        try:
            settings = with_tuples(values)
            comparison = cls(**settings | {"mix": MixSpec(**with_tuples(settings["mix"])), "out": out})
            comparison.arms()
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(f"{out}: not the settings of a comparison ({error})") from error
        return comparison

    def arms(self) -> list[Arm]:
        """Every model to train: for each seed, the methods that use synthetic images for each source, the others once.

        A method that guides a base brings its control: the base's method alone, with the budget of both trainings.

        Raises:
            UsageError: there is no such method, preset or training option.
        """
        from nomadiff.methods.ambient import Ambient
        from nomadiff.workflows.arms import Arm, with_seed

        spec = self.mix_spec
        named = spec.named_synthetic()
        if self.together:
            groups = {"+".join(name for name, _ in named): spec.synthetic}
        else:
            groups = {name: (argument,) for (name, _), argument in zip(named, spec.synthetic)}
        methods = self._with_controls()
        if self.floor is not None and Ambient.name not in methods:
            raise UsageError("--floor belongs to --method ambient, which is not compared")
        floor = {} if self.floor is None else {"floor": self.floor}
        arms = []
        for seed in self.seeds:
            for method, (kind, uses_synthetic) in methods.items():
                for source, synthetic in (groups if uses_synthetic else {"": ()}).items():
                    mix = replace(with_seed(spec, seed), synthetic=synthetic)
                    if not uses_synthetic:
                        mix = replace(mix, real_fraction=None, source_weights=None)
                    elif mix.real_fraction == "auto":
                        mix = replace(mix, real_fraction=None)
                    assert self.preset is not None
                    name = f"{method}-{source}" if source else method
                    arms.append(
                        Arm(
                            method=method,
                            source=source,
                            seed=seed,
                            mix=mix,
                            out=self.out / "runs" / f"{name}-seed{seed}",
                            preset=self.preset,
                            count=self.count,
                            changes={**self.changes, **(floor if method == Ambient.name else {})},
                            class_labels=self.class_labels,
                            device=self.device,
                            kind=kind,
                            validation=self.validation,
                        )
                    )
        return arms

    @property
    def needs_synthetic(self) -> bool:
        """Whether some method learns from synthetic sources."""
        return any(uses_synthetic for _, uses_synthetic in self._with_controls().values())

    def _with_controls(self) -> dict[str, tuple[str, bool]]:
        """The methods and their controls: what each is found by, and whether it uses synthetic images."""
        from nomadiff.methods.registry import METHODS, method_named
        from nomadiff.methods.weighted import Weighted

        assert self.preset is not None, "with_preset comes first"
        methods = [method_named(given)(self.preset) for given in self.methods]
        names = {method.name for method in methods}
        found: dict[str, tuple[str, bool]] = {}
        for given, method in zip(self.methods, methods):
            kind = given if isinstance(given, str) else METHODS.name_of(given)
            if self.mix_spec.real_fraction == "auto" and method.uses_synthetic and not isinstance(method, Weighted):
                if kind not in _SEARCHED:
                    raise UsageError(f"--real-fraction auto is searched for sda and casd; with {kind} give a number")
                kind = _SEARCHED[kind]
            if method.control and method.control not in names:
                found[method.control] = method.control, method.uses_synthetic
            if found.setdefault(method.name, (kind, method.uses_synthetic))[0] != kind:
                raise UsageError(f"two methods are called '{method.name}': give one of them another name")
        return found
