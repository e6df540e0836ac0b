"""Arms of a comparison: models trained at equal budget, side by side in processes, each resumable by itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nomadiff.data.manifest import read_manifest
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.part_folder import JOB_NAME, discard, part_of
from nomadiff.errors import Interrupted
from nomadiff.files import read_json
from nomadiff.methods.method import Method
from nomadiff.methods.registry import method_named
from nomadiff.models.model import Model
from nomadiff.progress import progress_bar
from nomadiff.training.run_folder import RunFolder

__all__ = ["Arm", "run_arms"]


@dataclass(frozen=True)
class Arm:
    """One model of a comparison and the samples it is judged by.

    Attributes:
        method: "dm", "sda", "casd".
        source: name of the synthetic source it trains with; empty for none.
        seed: seed of its training and of its samples, so that arms of one seed share their noise.
        mix: its images.
        out: its run folder.
        preset: name of a preset.
        count: samples to draw.
        changes: training options that differ from the preset's.
        class_labels: condition on class labels.
        device: where to compute.
    """

    method: str
    source: str
    seed: int
    mix: MixSpec
    out: Path
    preset: str
    count: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    class_labels: bool = False
    device: str | None = None

    @property
    def samples_path(self) -> Path:
        """Path of its samples."""
        return self.out / "samples.zip"

    def algorithm(self) -> Method:
        """The method with its options."""
        training = {**self.changes, "seed": self.seed}
        return method_named(self.method)(self.preset, class_labels=self.class_labels, **training)

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

    def model(self) -> Model:
        """The trained model."""
        return Model.load(self.out, device=self.device)


def _run(arm: Arm) -> None:
    arm.run()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def run_arms(arms: Sequence[Arm], *, workers: int) -> None:
    """Run every arm, ``workers`` at a time, each in a process of one thread when there are several.

    Small networks gain nothing from threads and become slow when threads compete for cores; arms side by side do not.

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
    # children inherit the variable, which also bounds the threads of libraries that start before torch is told
    with (
        _environment("OMP_NUM_THREADS", "1"),
        _sigterm_as_interrupt(),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool,
    ):
        futures: set[Future] = {pool.submit(_run, arm) for arm in arms}
        try:
            _watch(arms, futures)
        except BaseException as error:
            for future in futures:
                future.cancel()
            for child in multiprocessing.active_children():
                child.terminate()  # SIGTERM: a training arm saves its state first
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("stopped, states saved: run the same command again to go on", signal.SIGINT) from None
            raise


def _watch(arms: Sequence[Arm], futures: set[Future]) -> None:
    """Show the images seen by all arms together until all are done; raise the first arm's error."""
    budgets = [arm.algorithm().training for arm in arms]
    total = sum(training.steps * training.batch for training in budgets)
    seen = 0
    with progress_bar(f"train {len(arms)} models", total=total) as advance:
        pending = futures
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            now = sum(_images_seen(arm.out) for arm in arms)
            finished = len(futures) - len(pending)
            advance(now - seen, note=f"{finished} of {len(futures)} done")
            seen = now


def _images_seen(out: Path) -> int:
    records = RunFolder(out).read_log()
    return records[-1]["images_seen"] if records else 0


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """While children work, SIGTERM ends them in order, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def with_seed(mix: MixSpec, seed: int) -> MixSpec:
    """A mix for one seed: ``{seed}`` in its subsets is replaced, so that every seed may draw its own images."""
    changes = {
        name: value.replace("{seed}", str(seed))
        for name in ("real_subset", "synthetic_subset")
        if (value := getattr(mix, name)) is not None
    }
    return replace(mix, **changes)
