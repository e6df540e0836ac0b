"""Arms of a comparison: models trained at equal budget, side by side in processes, each resumable by itself."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nomadiff.data.manifest import read_manifest
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.part_folder import JOB_NAME, discard, part_of
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import NomadiffWarning
from nomadiff.files import read_json
from nomadiff.job_folder import Job
from nomadiff.methods.method import Method
from nomadiff.methods.registry import method_named
from nomadiff.models.model import Model
from nomadiff.monitoring.settings import Monitoring
from nomadiff.monitoring.validation import opened
from nomadiff.processes import join_processes
from nomadiff.training.presets import AnyPreset
from nomadiff.training.run_folder import RunFolder

__all__ = ["Arm", "job_of", "with_seed"]


@dataclass(frozen=True)
class Arm:
    """One model of a comparison and the samples it is judged by.

    Attributes:
        method: what tables and folders call its method.
        source: name of the synthetic source it trains with; empty for none.
        seed: seed of its training and of its samples, so that arms of one seed share their noise.
        mix: its images.
        out: its run folder.
        preset: a preset, as :func:`~nomadiff.training.presets.preset_named` takes it.
        count: samples to draw.
        changes: training options that differ from the preset's.
        class_labels: condition on class labels.
        device: where to compute.
        validation: what to measure its held-out loss on, as :class:`~nomadiff.monitoring.settings.Monitoring` has it.
        kind: what :func:`~nomadiff.methods.registry.method_named` finds the method by, where it is another name.
    """

    method: str
    source: str
    seed: int
    mix: MixSpec
    out: Path
    preset: AnyPreset
    count: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    class_labels: bool = False
    device: str | None = None
    kind: str = ""
    validation: str | float | None = None

    @property
    def samples_path(self) -> Path:
        """Path of its samples."""
        return self.out / "samples.zip"

    def algorithm(self) -> Method:
        """The method with its options."""
        training = {**self.changes, "seed": self.seed}
        return method_named(self.kind or self.method)(self.preset, class_labels=self.class_labels, **training)

    def run(self) -> None:
        """Train and sample, or whatever of it is not done yet."""
        processes = join_processes(self.device)
        mix = self.mix.open()
        model = self.algorithm().fit(mix, self.out, device=self.device, monitoring=self.monitoring(mix))
        wanted = model.manifest(self.count, self.seed)

        def of_another_model(found: dict[str, Any] | None) -> bool:
            return found is None or any(found.get(key) != wanted[key] for key in ("model_sha256", "count", "sampler"))

        begun = part_of(self.samples_path) / JOB_NAME
        drawn = not of_another_model(read_manifest(self.samples_path) if self.samples_path.exists() else None)
        processes.barrier()  # every process has looked before the main one writes
        if processes.is_main:
            if drawn or (begun.exists() and of_another_model(read_json(begun))):
                discard(self.samples_path)  # unfinished when the arm was killed; the run was extended since
            if not drawn:
                self.samples_path.unlink(missing_ok=True)
        if not drawn:
            model.write_samples(self.samples_path, self.count, self.seed, processes=processes)

    def monitoring(self, mix: SourceMix) -> Monitoring | None:
        """What is measured while it trains on its images."""
        return (
            None if self.validation is None else opened(Monitoring(validation=self.validation, grid=0), self.mix, mix)
        )

    @property
    def images_to_see(self) -> int:
        """Training images of all its networks together."""
        training = self.algorithm().training
        return training.steps * training.batch

    def run_folder(self) -> RunFolder:
        """The run of its network, or of the base of a guided one."""
        return RunFolder(self.out / self.algorithm().base_folder)

    def model(self) -> Model:
        """The trained model."""
        return Model.load(self.out, device=self.device)


def _run(arm: Arm, device: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadiffWarning)  # of the recipe: the caller has told it once
        replace(arm, device=device or arm.device).run()


def job_of(arm: Arm, study: Path, name: str = "", after: tuple[str, ...] = ()) -> Job:
    """The job of training and sampling an arm, whose folder is below the study's; its name is the folder's if empty."""
    settings = {**vars(arm), "mix": vars(arm.mix), "out": arm.out.name, "device": None}
    if arm.validation is None:
        settings.pop("validation")  # as plans of before it could be asked for
    told = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(settings, sort_keys=True, default=repr))
    return Job(
        name or arm.out.name,
        partial(_run, arm),
        after,
        (arm.samples_path,),
        hashlib.sha256(told.encode()).hexdigest(),
        arm.images_to_see,
        str(arm.out.relative_to(study)),
        arm.algorithm().shares_work,
    )


def with_seed(mix: MixSpec, seed: int) -> MixSpec:
    """A mix for one seed: ``{seed}`` in its subsets is replaced, so that every seed may draw its own images."""
    changes = {
        name: value.replace("{seed}", str(seed))
        for name in ("real_subset", "synthetic_subset")
        if (value := getattr(mix, name)) is not None
    }
    return replace(mix, **changes)
