"""Arms of a comparison: models trained at equal budget, side by side in processes, each resumable by itself."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nomadiff.data.manifest import read_manifest
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.part_folder import JOB_NAME, discard, part_of
from nomadiff.errors import Interrupted
from nomadiff.files import read_json
from nomadiff.jobs import in_processes
from nomadiff.methods.method import Method
from nomadiff.methods.registry import method_named
from nomadiff.models.model import Model
from nomadiff.progress import progress_bar
from nomadiff.training.presets import AnyPreset
from nomadiff.training.run_folder import RunFolder

__all__ = ["Arm", "run_arms"]


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
        model = self.algorithm().fit(self.mix.open(), self.out, device=self.device)
        wanted = model.manifest(self.count, self.seed)

        def of_another_model(found: dict[str, Any] | None) -> bool:
            return found is None or any(found.get(key) != wanted[key] for key in ("model_sha256", "count", "sampler"))

        part = part_of(self.samples_path)
        if (part / JOB_NAME).exists() and of_another_model(read_json(part / JOB_NAME)):
            discard(self.samples_path)  # unfinished when the arm was killed; the run was extended since
        if of_another_model(read_manifest(self.samples_path) if self.samples_path.exists() else None):
            self.samples_path.unlink(missing_ok=True)
            model.write_samples(self.samples_path, self.count, self.seed)
        else:
            discard(self.samples_path)

    @property
    def images_to_see(self) -> int:
        """Training images of all its networks together."""
        training = self.algorithm().training
        return training.steps * training.batch

    def images_seen(self) -> int:
        """How many of them were seen so far, as the logs of its trainings say."""
        paths = (*self.out.glob("log.jsonl"), *self.out.glob("*/log.jsonl"))
        logs = [RunFolder(path.parent).read_log() for path in paths]
        return sum(int(log[-1]["images_seen"]) for log in logs if log)

    def run_folder(self) -> RunFolder:
        """The run of its network, or of the base of a guided one."""
        return RunFolder(self.out / self.algorithm().base_folder)

    def model(self) -> Model:
        """The trained model."""
        return Model.load(self.out, device=self.device)


def _run(arm: Arm) -> None:
    arm.run()


def run_arms(arms: Sequence[Arm], *, workers: int) -> None:
    """Run every arm, ``workers`` at a time, each in a process of one thread when there are several.

    Args:
        arms: what to run; finished ones cost nothing.
        workers: processes; 1 runs the arms one after another in this process with all its threads.

    Raises:
        NomadiffError: an arm failed (the others are stopped, their states saved).
        Interrupted: Ctrl-C or SIGTERM; every arm's state is saved.
    """
    if workers == 1:
        for arm in arms:
            arm.run()
        return
    finished: set[Path] = set()
    seen = 0
    with progress_bar(f"train {len(arms)} models", total=sum(arm.images_to_see for arm in arms)) as advance:

        def show() -> None:
            nonlocal seen
            now = sum(arm.images_to_see if arm.out in finished else arm.images_seen() for arm in arms)
            advance(now - seen, note=f"{len(finished)} of {len(arms)} done")
            seen = now

        try:
            with closing(in_processes(_run, [(arm,) for arm in arms], workers, while_waiting=show)) as results:
                for (arm,), _ in results:
                    finished.add(arm.out)
                    show()
        except KeyboardInterrupt:
            raise Interrupted("stopped, states saved: run the same command again to go on", signal.SIGINT) from None


def with_seed(mix: MixSpec, seed: int) -> MixSpec:
    """A mix for one seed: ``{seed}`` in its subsets is replaced, so that every seed may draw its own images."""
    changes = {
        name: value.replace("{seed}", str(seed))
        for name in ("real_subset", "synthetic_subset")
        if (value := getattr(mix, name)) is not None
    }
    return replace(mix, **changes)
