"""Looks at a training from snapshot to snapshot: held-out loss, samples, scores, the best so far, a live report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.drawable import Drawable
from nomadiff.monitoring.grids import grid_path, write_grid
from nomadiff.monitoring.history import History
from nomadiff.monitoring.live_report import State, live_report
from nomadiff.monitoring.settings import Monitoring
from nomadiff.monitoring.trackers import Trackers
from nomadiff.monitoring.validation import fixed_images
from nomadiff.processes import Processes
from nomadiff.progress import say
from nomadiff.training.config import RunConfig
from nomadiff.training.held_out_loss import fixed_noise_losses
from nomadiff.training.noise_bands import band_edges
from nomadiff.training.run_folder import RunFolder, images_seen_by

__all__ = ["Monitor"]

_FEWEST = 10  # images that a score can be taken of
_SEED = 0  # of the samples: those that `nomadiff sample` draws by default


class Monitor:
    """The observer of one run (:class:`~nomadiff.training.observer.Observer`).

    It writes into the run's folder: ``validation.jsonl``, ``best.safetensors``, ``grids/``, ``report.html``, and
    ``tracking/`` where trackers are asked for. What the first three hold is a function of the weights, so a run that is
    killed and continued leaves the same as an unbroken one.

    Args:
        monitoring: what to look at, with its validation images set apart
            (:func:`~nomadiff.monitoring.validation.set_apart`).
        config: the run's recipe.
        mix: what it trains on.
        folder: the run's folder.
        processes: who trains.

    Raises:
        UsageError: a tracker is not installed, the validation images lack classes that the model needs, or samples
            cannot be scored against them.
    """

    def __init__(
        self,
        monitoring: Monitoring,
        config: RunConfig,
        mix: SourceMix,
        folder: RunFolder,
        processes: Processes,
    ) -> None:
        self.monitoring, self.config, self.folder, self.processes = monitoring, config, folder, processes
        self._mix, self._validation = mix, monitoring.validation
        self._history = History(folder.path)
        self._reference: ReferenceSet | None = None
        self._undrawn = ""
        self._sets = {}
        if isinstance(self._validation, ImageSource):
            self._sets["held_out"] = fixed_images(self._validation, 0, config)
            for label, source in enumerate(mix.sources):
                self._sets[source.name] = fixed_images(source, label, config, len(self._sets["held_out"].images))
            if monitoring.evaluate_every is not None:
                self._check_scores(self._validation)
        self._trackers = Trackers(monitoring.track, folder.path) if processes.is_main else None

    def _check_scores(self, validation: ImageSource) -> None:
        """Find out before the training whether samples can be scored."""
        if (count := min(len(validation), self.monitoring.evaluate_count)) < _FEWEST:
            raise UsageError(f"scores need at least {_FEWEST} samples and validation images, got {count}")
        self._detector()(validation.pixels[:1])

    def _detector(self) -> Detector:
        asked = self.monitoring
        return load_detector(asked.detector, weights=asked.detector_weights, device=self.processes.device)

    @property
    def edges(self) -> list[float]:
        """Noise levels between the bands that losses are logged for."""
        return band_edges(self.config.training.p_mean, self.config.training.p_std)

    @property
    def _end(self) -> int:
        return self.config.training.steps * self.config.training.batch

    def stopped_at(self) -> int | None:
        """Images seen where the run was stopped early, as the file of measurements tells."""
        return self._history.stopped_at(self.monitoring.best_by, self.monitoring.early_stop)

    def begin(self, images_seen: int) -> str:
        """Forget what came after ``images_seen``; gives why the run is over, or an empty text."""
        self.processes.barrier()
        if self.processes.is_main:
            self._history.read()
            self._history.trim(images_seen)
            self._keep_best()
        self.processes.barrier()
        self._history.read()
        over = "stopped early" if self.stopped_at() is not None else ""
        if not over and images_seen < self._end:
            if self.monitoring.evaluate_every is not None:
                assert isinstance(self._validation, ImageSource)
                self._reference = ReferenceSet(
                    self._validation.pixels,
                    detector=self._detector(),
                    device=self.processes.device,
                    processes=self.processes,
                )
            if self._trackers is not None:
                self._trackers.start(self.config, images_seen)
            if images_seen and self.processes.is_main:  # the page of a run that was stopped says so
                self._write_report(images_seen, "running")
        return over

    def log(self, record: Mapping[str, Any]) -> None:
        """Hand a line of the log to the trackers."""
        if self._trackers is not None:
            self._trackers.log(record)

    def seen(self, images_seen: int) -> bool:
        """Whether this snapshot was measured, or drawn where nothing is measured."""
        if self._sets:
            return any(row["images_seen"] == images_seen for row in self._history.rows)
        return not self.monitoring.grid or grid_path(self.folder.path, images_seen).exists()

    def snapshot(self, denoiser: EDMDenoiser, images_seen: int, last: bool) -> str:
        """Measure, draw and score; write it all down. Gives why to stop, or an empty text."""
        row = self._losses(denoiser, images_seen)
        scored = self._reference is not None and (last or self._is_due(images_seen))
        samples = self._samples(denoiser, images_seen, scored)
        if scored and samples is not None:
            row |= self._scores(samples)
        if self._sets:
            self._history.add(row)
        stop = "" if last or self.stopped_at() is None else self._why(images_seen)
        if self.processes.is_main:
            grid = grid_path(self.folder.path, images_seen)
            if samples is not None and self.monitoring.grid:
                write_grid(grid, samples[: self.monitoring.grid])
            if self._sets:
                self._keep_best()
                self._history.write()
            if self._trackers is not None:
                self._trackers.snapshot(row, grid if grid.exists() else None)
            self._write_report(images_seen, "finished" if stop or last else "running", stop)
        return stop

    def stopped(self, images_seen: int) -> None:
        """Say so in the report, and how to go on."""
        told = f"stopped at {images_seen:,} of {self._end:,} images: run the same command again to go on"
        self._write_report(images_seen, "stopped", told)

    def close(self) -> None:
        """Close the trackers."""
        if self._trackers is not None:
            self._trackers.close()

    def _losses(self, denoiser: EDMDenoiser, images_seen: int) -> dict[str, Any]:
        row: dict[str, Any] = {"images_seen": images_seen}
        found = {
            name: fixed_noise_losses(denoiser, data, self._mix, self.config, self.processes)
            for name, data in self._sets.items()
        }
        for name, losses in found.items():
            field = "held_out_loss" if name == "held_out" else f"training_loss_{name}"
            row |= {field: float(losses.mean()), f"{field}_by_noise": losses.mean(0).tolist()}
        if found:
            held_out, trained = found["held_out"].mean(1), found[self._mix.names[0]].mean(1)
            row["gap"] = float(held_out.mean() - trained.mean())
            variances = [float(each.var(correction=0)) / max(len(each) - 1, 1) for each in (held_out, trained)]
            row["gap_error"] = sum(variances) ** 0.5
        return row

    def _is_due(self, images_seen: int) -> bool:
        every = self.monitoring.evaluate_every
        assert every is not None
        before = [row["images_seen"] for row in self._history.rows if "precision" in row]
        return images_seen // every > (before[-1] // every if before else 0)

    def _samples(self, denoiser: EDMDenoiser, images_seen: int, scored: bool) -> Tensor | None:
        """Samples from the same noise every time; None where none are wanted, or none can be drawn."""
        count = max(self.monitoring.grid, self.monitoring.evaluate_count if scored else 0)
        if not count:
            return None
        drawable = Drawable(denoiser, self.config, self.processes.device)
        try:
            return drawable.sample(count, _SEED, processes=self.processes)
        except NomadiffError as error:  # an untrained network may draw what is not finite; the training goes on
            if self.processes.is_main and str(error) != self._undrawn:
                say(f"no samples after {images_seen:,} images: {error}")
            self._undrawn = str(error)
            return None

    def _scores(self, samples: Tensor) -> dict[str, Any]:
        assert self._reference is not None
        samples = samples[: self.monitoring.evaluate_count]
        found = self._reference.evaluate(samples)
        return {name: value for name, value in found.items() if isinstance(value, float)} | {"samples": len(samples)}

    def _why(self, images_seen: int) -> str:
        patience, best = self.monitoring.early_stop, self._history.best(self.monitoring.best_by)
        what = "held-out loss" if self.monitoring.best_by == "loss" else "score"
        return (
            f"stopped early at {images_seen:,} of {self._end:,} images: {patience} measurements without a better "
            f"{what}; the best snapshot is that of {best:,} images, {self.folder.best_path}"
        )

    def _keep_best(self) -> None:
        """Make ``best.safetensors`` the best snapshot that is known."""
        best, path = self._history.best(self.monitoring.best_by), self.folder.best_path
        if best is None:
            path.unlink(missing_ok=True)
        elif images_seen_by(path) != best:
            self.folder.keep_best(best)

    def _write_report(self, images_seen: int, state: State, stop: str = "") -> None:
        shape = Drawable(None, self.config, self.processes.device).image_shape  # type: ignore[arg-type]  # draws nothing
        report = live_report(self.folder, self.config, self._history, images_seen, state, stop, self.monitoring, shape)
        report.write(self.folder.path / "report.html")
