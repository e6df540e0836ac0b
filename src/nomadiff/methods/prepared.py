"""What methods share that find something out about the images before they train: one budget for both, one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import read_json, write_json
from nomadiff.methods.method import Method
from nomadiff.models.model import Model
from nomadiff.monitoring.monitor import Monitor
from nomadiff.monitoring.settings import Monitoring
from nomadiff.plain import differences
from nomadiff.processes import Processes, join_processes
from nomadiff.tables import Table, read_table
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.presets import AnyPreset
from nomadiff.training.run_folder import PREPARATION, RunFolder

__all__ = ["PreparedMethod"]


class PreparedMethod(Method):
    """A small training that decides how the synthetic images are used, and then the training itself.

    The budget is that of both together, so that arms of one budget saw as many images. What was found out lies in
    ``out/preparation``: ``settings.json``, and a table (JSON and CSV) of what it means for each image.

    Args:
        preset, class_labels, training: as for every method. ``budget`` counts the images of both trainings.
        share: the first training's budget as a share of the second one's, above 0 and at most 1.

    Raises:
        UsageError: no such preset or training field, or a value out of range.
    """

    finds: str = ""
    """What the first training is for, in a few words."""

    def __init__(self, preset: AnyPreset = "cifar10", *, share: float = 0.2, **options: Any) -> None:
        super().__init__(preset, **options)
        if not 0 < share <= 1:
            raise UsageError(f"{self.name}: share must lie above 0 and at most at 1, got {share}")
        self.share = share

    @property
    def prepares(self) -> bool:
        """Whether anything has to be found out."""
        return True

    def parts(self, recipe: RunConfig) -> int:
        """How many networks share the first training's budget in equal parts."""
        raise NotImplementedError

    def prepared(self, mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> SourceMix:
        """Find out what is needed, or read what was found, and give the images to train on.

        Args:
            mix: all images.
            recipe: that of the training on all of them.
            folder: where to keep what was found; continued if it is half done.
            budget: images to see.
            processes: who takes part.
        """
        raise NotImplementedError

    @staticmethod
    def findings(path: Path, processes: Processes, find: Callable[[], Table]) -> Table:
        """The table of what was found, at ``path``; where it is not there yet, all processes find it and one writes."""
        done = path.with_suffix(".csv").exists()  # of its two files the CSV comes last
        processes.barrier()  # every process looks before one writes
        if not done:
            table = find()
            if processes.is_main:
                table.write(path)
            processes.barrier()
        return read_table(path)

    def own_settings(self) -> dict[str, Any]:
        """Options that the preparation depends on, plain values."""
        return {"share": self.share}

    def recipe(self, mix: SourceMix) -> RunConfig:
        """The configuration of a training on all images, with the budget of both trainings.

        Raises:
            UsageError: as for every method; there is no synthetic source; or the budget is too small for two trainings.
        """
        if len(mix.names) < 2:
            raise UsageError(f"{self.name} decides how synthetic images are used: add --synthetic, or use --method dm")
        config = super().recipe(mix)
        self.budgets(config)
        return config

    def budgets(self, recipe: RunConfig) -> tuple[int, int]:
        """Images that the first and the second training see.

        Raises:
            UsageError: the first one leaves no batch for the second.
        """
        total, batch = self.training.steps * self.training.batch, self.training.batch
        first = 0
        if self.prepares:
            together = self.parts(recipe) * batch
            first = max(self.part_of_budget(self.share) // together, 1) * together
        if total - first < batch:
            raise UsageError(
                f"{self.name}: of a budget of {total:,} images {first:,} go to {self.finds}, which leaves no batch for "
                "the training: pass a larger --budget"
            )
        return first, total - first

    def budget_note(self, recipe: RunConfig) -> str:
        """How the budget is divided."""
        first, second = self.budgets(recipe)
        return f"{first:,} images went to {self.finds}, {second:,} trained the network." if first else ""

    def check_folder(self, out: Path, recipe: RunConfig, mix: SourceMix) -> None:
        """Refuse a folder that holds another run or another preparation.

        Raises:
            UsageError: it does; a larger budget changes what is found, so such a run cannot be prolonged.
        """
        path = out / PREPARATION / "settings.json"
        if not self.prepares or not path.exists():
            RunFolder(out).check(recipe, mix.provenance)
            return
        found, wanted = read_json(path, dict), self._settings_of(recipe, mix)
        if changed := differences(found, wanted):
            raise UsageError(f"{out} holds another run (differs in {changed}); choose another --out")

    def fit(
        self,
        mix: SourceMix,
        out: str | Path,
        *,
        device: str | None = None,
        description: str | None = None,
        monitoring: Monitoring | None = None,
    ) -> Model:
        """Find out what is needed, then train in ``out``; continue what is half done.

        It is the second training that ``monitoring`` looks at.

        Raises:
            UsageError, NomadiffError, Interrupted: as for every method.
        """
        if not self.prepares:
            return super().fit(mix, out, device=device, description=description, monitoring=monitoring)
        out, processes = Path(out), join_processes(device)
        recipe, mix, monitoring = self.monitored(mix, monitoring)
        first, second = self.budgets(recipe)
        self.check_folder(out, recipe, mix)
        processes.barrier()  # every process has looked before the main one writes
        folder = RunFolder(out)
        settings = out / PREPARATION / "settings.json"
        if processes.is_main:
            with folder.lock():
                if not settings.exists():
                    write_json(settings, self._settings_of(recipe, mix))
                used = self.prepared(mix, recipe, settings.parent, first, processes)
        else:
            used = self.prepared(mix, recipe, settings.parent, first, processes)
        config = self.recipe_of(used)
        training = replace(config.training, budget=second)
        config = replace(config, training=training, validation=recipe.validation)
        monitor = None if monitoring is None else Monitor(monitoring, config, used, folder, processes)
        train(config, used, folder, processes, description=description, observer=monitor)
        processes.barrier()
        return Model.load(folder.path, device=processes.device)

    def _settings_of(self, recipe: RunConfig, mix: SourceMix) -> dict[str, Any]:
        """All that the preparation depends on, as JSON gives it back."""
        training = recipe.to_dict()["training"]
        first, second = self.budgets(recipe)
        settings = {
            **{name: value for name, value in training.items() if name not in ("log_every", "snapshot_every")},
            "method": self.name,
            "budget": first + second,
            "network": recipe.network.to_dict(),
            "sources": recipe.source_names,
            "shares": recipe.shares,
            "data": [source.get("content_hash") for source in mix.provenance],
            "labels": [source.get("labels_hash") for source in mix.provenance] if recipe.classes else None,
            **self.own_settings(),
        }
        return json.loads(json.dumps(settings))
