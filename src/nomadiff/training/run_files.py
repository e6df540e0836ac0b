"""What a training writes and reads of its weights: snapshots, the model, the state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError
from nomadiff.networks.build import misfit
from nomadiff.processes import Processes
from nomadiff.training.config import RunConfig
from nomadiff.training.ema import ModuleEMA
from nomadiff.training.phema import PowerEMA
from nomadiff.training.run_folder import RunFolder, images_seen_by, load_tensors, save_tensors
from nomadiff.training.state import load_state, save_state

__all__ = ["RunFiles"]


@dataclass(frozen=True)
class RunFiles:
    """The files of a training that hold weights. Every process has them; the main one writes.

    Attributes:
        config: the recipe.
        folder: the run folder.
        processes: the processes.
        denoiser, ema, optimizer: what is trained.
    """

    config: RunConfig
    folder: RunFolder
    processes: Processes
    denoiser: EDMDenoiser
    ema: ModuleEMA[EDMDenoiser] | PowerEMA[EDMDenoiser]
    optimizer: torch.optim.Adam

    def save_snapshots(self, images_seen: int, *, absent: bool = False) -> None:
        """Write the snapshots of this moment; only those that are absent or damaged, if asked."""
        for std, average in zip(self.config.training.ema_stds or (None,), self.ema.modules):
            path = self.folder.snapshot_path(images_seen, None if average is self.ema.module else std)
            if not absent or images_seen_by(path) is None:
                self._save_average(path, average, images_seen)

    def save_model(self, images_seen: int) -> None:
        """Write the model."""
        self._save_average(self.folder.model_path, self.ema.module, images_seen)

    def _save_average(self, path: Path, average: EDMDenoiser, images_seen: int) -> None:
        if self.processes.is_main:
            metadata: dict[str, Any] = {"recipe": self.config.to_dict(), "images_seen": images_seen}
            if stds := self.config.training.ema_stds:
                metadata["ema_std"] = stds[self.ema.modules.index(average)]
            save_tensors(path, average.state_dict(), metadata)

    def save_state(self, images_seen: int, part: int) -> None:
        """Write what a continued run needs; ``part`` images are worked on at once. All processes wait for it."""
        if self.processes.is_main:
            facts = {"images_seen": images_seen, "processes": self.processes.count, "part": part}
            save_state(self.folder.state_path, self.denoiser, self._averages(), self.optimizer, **facts)
        self.processes.barrier()

    def load_state(self) -> dict[str, Any] | None:
        """Go on from the state and give its facts; None where it is damaged and nothing is left to train.

        Raises:
            DataError: it is damaged, and training is not at its end.
        """
        options = self.config.training
        try:
            return load_state(self.folder.state_path, self.denoiser, self._averages(), self.optimizer)
        except DataError as error:
            if images_seen_by(self.folder.model_path) == options.steps * options.batch:
                return None
            raise DataError(f"{error}: delete it to train again from zero, or use one of the snapshots") from error

    def load_model(self) -> int:
        """Read the model of a finished run whose state (the larger part of a run) was removed.

        Returns:
            Images it has seen.

        Raises:
            DataError: it is not the model of this run.
        """
        tensors, metadata = load_tensors(self.folder.model_path)
        if reason := misfit(self.ema.module.state_dict(), tensors):
            told = f"{self.folder.model_path}: not the model of this run ({reason})"
            raise DataError(f"{told}; delete it and run the same command again, or choose another --out")
        self.ema.module.load_state_dict(tensors)
        return int(metadata["images_seen"])

    def _averages(self) -> dict[str, EDMDenoiser]:
        return {f"ema{index}": average for index, average in enumerate(self.ema.modules)}
