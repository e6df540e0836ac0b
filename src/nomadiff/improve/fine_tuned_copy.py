"""The folder that ``improve`` and ``shift`` leave: a base, a copy fine-tuned on synthetic images, their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import Interrupted, UsageError, signal_of
from nomadiff.files import COMMAND_NAME, write_json
from nomadiff.improve.auxiliary import AuxiliaryConfig, auxiliary_config, budgets
from nomadiff.improve.candidates import Candidates
from nomadiff.improve.settings import Improvement
from nomadiff.models.model import Model
from nomadiff.models.own_denoiser import DenoiserFacts
from nomadiff.models.provenance import SOURCES_NAME, origins
from nomadiff.plain import differences
from nomadiff.processes import Processes
from nomadiff.tables import Table, read_table
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder, is_whole, save_tensors, versions

__all__ = ["FineTunedCopy"]

_WITH_SCORES = ("confirmation",)  # parts of the table's meta that are as void as the scores when these are


class FineTunedCopy:
    """A base, its copy in ``auxiliary/`` and a table of scores in one folder, which becomes a model in the end.

    Nothing is written before :meth:`claim`.

    Args:
        model: the base, a single network.
        out: the folder.
        improvement: settings of the fine-tuning.
        processes: who takes part.
        table: file name of the table of scores, such as ``improve.json``.
        noun: what such a folder is called in messages.
        depends: what else the copy depends on: folders that differ in it are told apart.
        command: the command line, recorded in the table.

    Attributes:
        config: recipe of the fine-tuning.
        run_folder: where the copy is trained.
        table: the scores; its meta says what they depend on.

    Raises:
        UsageError: ``out`` holds the base itself, or the model is no single network.
    """

    def __init__(
        self,
        model: Model,
        out: Path,
        improvement: Improvement,
        processes: Processes,
        *,
        table: str,
        noun: str,
        depends: Mapping[str, Any],
        command: str = "",
    ) -> None:
        self.out, self.processes, self.noun = out, processes, noun
        self._base, self._file, self._snapshots = model, out / table, improvement.snapshots
        inside = model.is_stored and out.resolve() in model.path.resolve().parents
        if model.is_stored and model.path.resolve().parent == out.resolve():
            raise UsageError(f"{out} holds the base model itself; choose another --out")
        # a base that a method trained inside the folder is referred to, any other is copied: the folder can be moved
        self.base_path = model.path.resolve().relative_to(out.resolve()) if inside else Path("base.safetensors")
        self._state = model.network.state_dict()  # a guided model has no single network: UsageError
        self.config: AuxiliaryConfig = auxiliary_config(model.known, improvement)
        self.run_folder = RunFolder(out / "auxiliary")
        options = self.config.training
        settings = improvement.of_auxiliary() | {"budget": options.budget, "learning_rate": options.learning_rate}
        self.table = Table(
            meta={
                "command": command,
                "base_sha256": model.sha256,
                "auxiliary": {**settings, **depends},
                "scoring": {},
                "versions": versions(),
            }
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process while the block runs; Ctrl-C and SIGTERM end it with one sentence.

        Raises:
            UsageError: another process works here.
            Interrupted: stopped; what is done is kept.
        """
        try:
            if self.processes.is_main:
                with RunFolder(self.out).lock():
                    yield
            else:
                yield
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                f"stopped, what is done is kept in {self.out}: run the same command again to go on",
                signal_of(interrupt),
            ) from None

    def claim(self, scoring: Mapping[str, Any] | None) -> None:
        """Claim the folder, or make sure it holds the same work; take over its scores, and store the base.

        Args:
            scoring: what scores depend on beside candidate and seed: when it changes, old scores are void. None if
                nothing will be scored: what was stays.

        Raises:
            UsageError: the folder holds something else.
        """
        meta = self.table.meta
        meta["scoring"] = dict(scoring or {})
        self.out.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            found = read_table(self._file)
            for name in ("base_sha256", "auxiliary"):
                if found.meta.get(name) != _plain(meta[name]):
                    what = _difference(found.meta.get(name), _plain(meta[name]))
                    raise UsageError(f"{self.out} holds another {self.noun} (differs in {what}); choose another --out")
            if scoring is None:
                meta["scoring"] = found.meta.get("scoring")
            if found.meta.get("scoring") == _plain(meta["scoring"]):
                self.table.rows = found.rows
                meta |= {name: found.meta[name] for name in _WITH_SCORES if name in found.meta}
        elif {entry.name for entry in self.out.iterdir() if not entry.name.startswith(".")} - {
            self.base_path.parts[0],
            COMMAND_NAME,
        }:
            raise UsageError(f"{self.out} is not empty and no {self.noun}; choose another --out")
        self.processes.barrier()  # every process has looked before the main one writes
        self.save()
        if self.processes.is_main and not is_whole(self.out / self.base_path):
            known = self._base.known
            recipe: dict[str, Any] = {"copied_from_sha256": self._base.sha256}
            if isinstance(known, DenoiserFacts):
                recipe["denoiser"] = known.to_dict()
            else:
                recipe["recipe"] = self._base.config.to_dict()
            if sources := origins(self._base):  # its licence and what it was trained on go with it
                write_json(self.out / SOURCES_NAME, sources)
            save_tensors(self.out / self.base_path, self._state, recipe)
        self.processes.barrier()

    @property
    def is_trained(self) -> bool:
        """Whether the fine-tuning is done."""
        return self.run_folder.model_path.exists()

    def train(self, images: ImageSource) -> None:
        """Fine-tune the copy on these images; an interrupted training goes on.

        Raises:
            NomadiffError: as training does.
        """
        start = {name: value.detach().cpu() for name, value in self._state.items()}
        mix = SourceMix(images)
        train(self.config, mix, self.run_folder, self.processes, start_from=start, description="fine-tune a copy")

    def candidates(self) -> Candidates:
        """The models that base and copy can become."""
        base = Model.load(self.out / self.base_path, device=self.processes.device)
        return Candidates(self.out, base, self.base_path.as_posix(), budgets(self.config, self._snapshots))

    def save(self) -> None:
        """Write the table (the main process does)."""
        if self.processes.is_main:
            self.table.write(self._file)

    def finish(self, model: Model, sentence: str) -> None:
        """Make the folder a model: write its ``guidance.json``, and the answer into the table."""
        assert model.guidance is not None
        if self.processes.is_main:
            self.table.meta |= {"sentence": sentence, "model_sha256": model.sha256}
            self.save()
            model.guidance.write(self.out)
        self.processes.barrier()


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):  # hashes, which tell a reader nothing
        return "the base model"
    return differences(old, new)
