"""Experiment trackers, through accelerate: one interface to tensorboard, wandb, mlflow and trackio."""

from __future__ import annotations

import importlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import open_regular, read_json, write_json
from nomadiff.progress import say
from nomadiff.training.config import RunConfig
from nomadiff.training.noise_bands import band_names

__all__ = ["Trackers"]

_PROJECT = "nomadiff"
_FOLDER = "tracking"


class Trackers:
    """The trackers of one run.

    Everything is logged at the number of images seen. A run that goes on is the same run there: its ids are kept in
    ``tracking/ids.json``.

    Args:
        track: names, or trackers of accelerate.
        run: the run's folder.

    Raises:
        UsageError: one is not installed; the message says how to.
    """

    def __init__(self, track: Sequence[Any], run: Path) -> None:
        self._given, self._run, self._folder = track, run, run / _FOLDER
        self._open: list[Any] = []
        self._bands: list[str] = []
        for name in track:
            # a folder that a tracker made here is found too, as a package without a file
            if isinstance(name, str) and ((found := find_spec(name)) is None or found.origin is None):
                raise UsageError(f"--track {name} needs the package {name}: {install_command(name)}")

    def start(self, config: RunConfig, images_seen: int) -> None:
        """Open them; ``images_seen`` tells those that can forget what was logged after it."""
        options = config.training
        self._bands = band_names(options.p_mean, options.p_std)
        if not self._given:
            return
        ids = self._ids()
        importlib.import_module("accelerate").PartialState(cpu=True)  # its trackers log their doings, which asks for it
        for given in self._given:
            name = given if isinstance(given, str) else str(given.name)
            try:
                tracker = self._named(given, ids, images_seen) if isinstance(given, str) else given
                tracker.main_process_only = False  # this is the main process; accelerate need not be started to know it
                tracker.start()
                self._open.append(tracker)
                if name == "mlflow":
                    ids["mlflow"] = tracker.tracker.info.run_id
                if not images_seen and name != "tensorboard":  # there it would be a run of its own
                    tracker.store_init_configuration(_flat(config.to_dict()))
            except Exception as error:
                raise NomadiffError(f"tracker {name} does not start: {_told(error)}") from error
        write_json(self._folder / "ids.json", ids)

    def log(self, record: Mapping[str, Any]) -> None:
        """Log a line of the log: losses by source and by noise, learning rate, speed."""
        values: dict[str, Any] = {"loss": record["loss"]}
        for name in ("learning_rate", "images_per_second", "source_effect", "nonfinite_losses"):
            if isinstance(record.get(name), int | float):
                values[f"training/{name}"] = record[name]
        for name, value in record.items():
            if name.startswith("loss_") and isinstance(value, float):
                values[f"loss/{name.removeprefix('loss_')}"] = value
        for name, losses in record.get("loss_by_noise", {}).items():
            values |= {
                f"loss_by_noise/{name}/{band}": loss
                for band, loss in zip(self._bands, losses)
                if isinstance(loss, float)
            }
        self._log(values, record["images_seen"])

    def snapshot(self, row: Mapping[str, Any], grid: Path | None) -> None:
        """Log what was measured at a snapshot, and its grid."""
        scores = {name: value for name, value in row.items() if isinstance(value, float)}
        if scores:
            self._log({f"validation/{name}": value for name, value in scores.items()}, row["images_seen"])
        if grid is None:
            return
        with open_regular(grid) as handle, Image.open(handle) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for tracker in self._open:
            with _complaints(tracker):
                _log_image(tracker, "samples", pixels, grid, row["images_seen"])

    def close(self) -> None:
        """Close them all."""
        while self._open:
            tracker = self._open.pop()
            with _complaints(tracker):
                tracker.finish()

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        for tracker in self._open:
            with _complaints(tracker):
                tracker.log(dict(values), step=step)

    def _ids(self) -> dict[str, Any]:
        with suppress(DataError):
            return read_json(self._folder / "ids.json", dict)
        return {"run": uuid.uuid4().hex[:12]}

    def _named(self, name: str, ids: Mapping[str, Any], images_seen: int) -> Any:
        """accelerate's tracker of this name, offline unless the environment says otherwise."""
        tracking = importlib.import_module("accelerate.tracking")
        self._folder.mkdir(parents=True, exist_ok=True)
        title = f"{self._run.resolve().name}-{ids['run']}"
        if name == "tensorboard":
            logging.getLogger("tensorboard").setLevel(logging.ERROR)
            return tracking.TensorBoardTracker(name, self._folder, purge_step=images_seen + 1 if images_seen else None)
        if name == "wandb":
            mode = os.environ.get("WANDB_MODE", "offline")
            options = {"id": ids["run"], "resume": "allow", "name": title, "dir": str(self._folder), "mode": mode}
            return tracking.WandBTracker(_PROJECT, **options)
        if name == "mlflow":
            if "MLFLOW_TRACKING_URI" not in os.environ:
                place = (self._folder / "mlflow.db").resolve()
                importlib.import_module("mlflow").set_tracking_uri(f"sqlite:///{place}")
            artifacts = (self._folder / "mlflow").resolve().as_uri()
            return tracking.MLflowTracker(_PROJECT, artifacts, run_id=ids.get("mlflow"), run_name=title)
        os.environ.setdefault("TRACKIO_DIR", str((self._folder / "trackio").resolve()))  # read when it is imported
        return tracking.TrackioTracker(_PROJECT, name=title, resume="allow")


@contextmanager
def _complaints(tracker: Any) -> Iterator[None]:
    """Tell of a tracker that fails (a full disk, a server that is gone); the training goes on."""
    try:
        yield
    except Exception as error:
        say(f"tracker {tracker.name} does not log: {_told(error)}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _log_image(tracker: Any, title: str, pixels: np.ndarray, file: Path, step: int) -> None:
    """Log one picture, uint8 ``(H, W, 3)``, by what each tracker has for it."""
    if tracker.name == "tensorboard":
        tracker.log_images({title: pixels[None]}, step=step, dataformats="NHWC")
    elif tracker.name == "mlflow":
        tracker.log_artifact(str(file), "grids")
    elif tracker.name == "trackio":
        tracker.log({title: importlib.import_module("trackio").Image(pixels)}, step=step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({title: [pixels]}, step=step)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names, as trackers take them: numbers and texts."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            found[f"{prefix}{name}"] = value
        elif value is not None:
            found[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found
