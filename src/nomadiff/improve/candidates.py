"""The models that one improvement can become: any budget, weight, space and interval of its auxiliary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nomadiff.guidance.strength import Interval
from nomadiff.improve.settings import SPACES
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.training.run_folder import RunFolder

__all__ = ["Candidates"]


class Candidates:
    """Makes models from the parts in the folder of an improvement.

    Args:
        folder: the improvement.
        base: its base.
        base_path: where the base lies, relative to ``folder``.
        budgets: images of fine-tuning of the copies to choose from, ascending; there may be further snapshots.
    """

    def __init__(self, folder: Path, base: Model, base_path: str, budgets: Sequence[int]) -> None:
        self.folder, self.base, self.base_path, self.budgets = folder, base, base_path, budgets
        self._run = RunFolder(folder / "auxiliary")
        self._loaded: tuple[int, Model] | None = None

    def make(self, budget: int, weight: float, space: str = "function", interval: Interval | None = None) -> Model:
        """The guided model of a budget and a weight.

        Args:
            budget: one of ``budgets``.
            weight: guidance weight.
            space: "function" or "parameters".
            interval: noise levels at which the auxiliary is called; None for all.
        """
        kind, method = SPACES[space]
        snapshot = self._run.snapshot_path(budget).relative_to(self.folder)
        guidance = GuidanceConfig(kind, weight, self.base_path, snapshot.as_posix(), interval, method=method)
        return Model.guided(guidance, self.base, self.auxiliary(budget), path=self.folder / GUIDANCE_NAME)

    def auxiliary(self, budget: int) -> Model:
        """The snapshot of a budget; the one asked for last is kept in memory."""
        if self._loaded is None or self._loaded[0] != budget:
            self._loaded = budget, Model.load(self._run.snapshot_path(budget), device=self.base.device)
        return self._loaded[1]
