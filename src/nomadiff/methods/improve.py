"""``improve``: a model made better by its own samples, without new data (SIMS Algorithm 1; Neon)."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nomadiff.data.sources import ImageSource, SourceMix
from nomadiff.errors import Interrupted, UsageError
from nomadiff.files import read_json
from nomadiff.methods.auxiliary import AuxiliaryConfig, auxiliary_config, budgets
from nomadiff.methods.candidates import Candidates
from nomadiff.methods.choosing import Chooser, Gain
from nomadiff.methods.improvement import Improvement
from nomadiff.methods.model import Model
from nomadiff.methods.own_samples import OwnSamples
from nomadiff.metrics.evaluate import ReferenceSet
from nomadiff.processes import Processes, join_processes
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table, read_table
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder, save_tensors, versions

__all__ = ["Improved", "improve"]

_BESIDE = ("precision", "recall", "coverage")
_OWN_SAMPLES = 2  # keeps the noise of the internal set apart from that of training and scoring


@dataclass(frozen=True)
class Improved:
    """What came of an improvement.

    Attributes:
        model: the model to use: the guided one, or the base (weight 0) where no gain was found.
        candidate: the guided model of the best weight and budget, whether it is used or not.
        table: every score: ``space``, ``weight`` (0 is the base), ``budget`` (images of fine-tuning), ``seed``,
            ``noise`` ("search" or "fresh"), one field a metric, ``nfe``, ``gflop`` and ``seconds_per_image``.
        sentence: the answer in words.
        gain: gain of the best candidate over the base on fresh noise; None when nothing was scored.
        candidates: the other models it could have become.
    """

    model: Model
    candidate: Model
    table: Table
    sentence: str
    gain: Gain | None
    candidates: Candidates


def improve(
    model: Model | str | Path,
    out: str | Path,
    improvement: Improvement | None = None,
    *,
    reference: ReferenceSet | None = None,
    synthetic: ImageSource | None = None,
    device: str | None = None,
    command: str = "",
) -> Improved:
    """Improve a model by its own samples; continue if ``out`` holds the same improvement half done.

    The model draws an internal set of samples; a copy is fine-tuned on it, with snapshots on the way; weight and budget
    are chosen by their score (if they are not given); what is sampled is the extrapolation away from the copy. With
    the auxiliary at hand, another ``space``, ``weight``, ``interval`` or metric costs only its scores: call again.

    ``out`` becomes a model (``guidance.json``) with a copy of the base, the run folder ``auxiliary/`` and
    ``improve.json``, the table of all scores.

    Args:
        model: the base: a single network (for a CASD model its real source is improved), or where it is stored.
        out: folder of the improvement.
        improvement: settings.
        reference: what to choose by, best real images held out from training. Needed unless a weight is given; without
            it nothing is scored.
        synthetic: another model's samples to fine-tune on in the place of its own (Neon's cross-model setting).
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        command: the command line, recorded in the table.

    Returns:
        The improved model, its scores, and the answer in a sentence.

    Raises:
        UsageError: ``out`` holds something else, the model is no single network, or a setting is missing.
        NomadiffError: as training does.
        Interrupted: Ctrl-C or SIGTERM; what is done is kept.
    """
    improvement = improvement or Improvement()
    if improvement.weight is None and reference is None:
        raise UsageError("choosing a weight needs --reference (held-out real images); or pass --weight, such as 1")
    processes = join_processes(device)
    if not isinstance(model, Model):
        model = Model.load(model, device=processes.device)
    task = _Task(model, Path(out), improvement, reference, synthetic, processes, command)
    try:
        if not processes.is_main:
            return task.run()
        with RunFolder(out).lock():
            return task.run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped, what is done is kept in {out}: run the same command again to go on", signal.SIGINT
        ) from None


class _Task:
    """One improvement in one process."""

    def __init__(
        self,
        model: Model,
        out: Path,
        improvement: Improvement,
        reference: ReferenceSet | None,
        synthetic: ImageSource | None,
        processes: Processes,
        command: str,
    ) -> None:
        self.out, self.improvement, self.reference, self.processes = out, improvement, reference, processes
        self.base = model
        inside = out.resolve() in model.path.resolve().parents
        if model.path.resolve().parent == out.resolve():
            raise UsageError(f"{out} holds the base model itself; choose another --out")
        # a base that a method trained inside the folder is referred to, any other is copied: the folder can be moved
        self.base_path = model.path.resolve().relative_to(out.resolve()) if inside else Path("base.safetensors")
        self.config: AuxiliaryConfig = auxiliary_config(model.config, improvement)
        self.run_folder = RunFolder(out / "auxiliary")
        self.synthetic = synthetic
        count = len(synthetic) if synthetic is not None else improvement.synthetic_count or _real_count(model)
        if count is None:
            raise UsageError(
                f"{model.path} does not say how many real images it was trained on: pass --synthetic-count"
            )
        seed = mixed_seed(improvement.seed, _OWN_SAMPLES) % (1 << 31)
        self.own = OwnSamples(model, out, count, seed)
        network = model.network  # says so if it is none
        settings = {**improvement.of_auxiliary(), "synthetic_count": count, "budget": self.config.training.budget}
        settings["learning_rate"] = self.config.training.learning_rate
        if synthetic is not None:
            settings["synthetic"] = synthetic.content_hash
        self.meta: dict[str, Any] = {
            "command": command,
            "base_sha256": model.sha256,
            "auxiliary": settings,
            "scoring": self._scoring(),
            "versions": versions(),
        }
        self.table = Table(meta=self.meta)
        self._state = network.state_dict()

    def run(self) -> Improved:
        """Do what is not done yet."""
        self._begin()
        finished = self.run_folder.model_path.exists()
        keep = self.improvement.keep_synthetic and self.synthetic is None
        if self.synthetic is None and (not finished or (keep and not self.own.archive.exists())):
            self.own.draw(self.processes)
        if not finished:
            mix = SourceMix(self.own.open() if self.synthetic is None else self.synthetic)
            start = {name: value.detach().cpu() for name, value in self._state.items()}
            train(self.config, mix, self.run_folder, self.processes, start_from=start, description="fine-tune a copy")
        if self.processes.is_main:
            self.own.drop(keep=keep)
        self.processes.barrier()
        base = Model.load(self.out / self.base_path, device=self.processes.device)
        self.candidates = Candidates(self.out, base, self.base_path.as_posix())
        return self._choose()

    def _begin(self) -> None:
        """Claim the folder, or make sure it holds the same improvement; take over its scores."""
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out / "improve.json"
        if file.exists():
            found = read_table(file)
            for name in ("base_sha256", "auxiliary"):
                if found.meta.get(name) != _plain(self.meta[name]):
                    what = _difference(found.meta.get(name), self.meta[name])
                    raise UsageError(f"{self.out} holds another improvement (differs in {what}); choose another --out")
            if self.reference is None:  # nothing will be scored: what was stays
                self.meta["scoring"] = found.meta.get("scoring")
            if found.meta.get("scoring") == _plain(self.meta["scoring"]):
                self.table.rows = found.rows
        elif {entry.name for entry in self.out.iterdir() if not entry.name.startswith(".")} - {self.base_path.parts[0]}:
            raise UsageError(f"{self.out} is not empty and no improvement; choose another --out")
        self.processes.barrier()  # every process has looked before the main one writes
        if self.processes.is_main:
            self._save()
            if not (self.out / self.base_path).exists():
                recipe = {"recipe": self.base.config.to_dict(), "copied_from_sha256": self.base.sha256}
                save_tensors(self.out / self.base_path, self._state, recipe)
        self.processes.barrier()

    def _choose(self) -> Improved:
        if self.reference is None:
            assert self.improvement.weight is not None
            final = budgets(self.config, self.improvement.snapshots)[-1]
            sentence = f"weight {self.improvement.weight:g} as asked; nothing was scored (no --reference)"
            return self._finish(final, self.improvement.weight, sentence)
        chooser = Chooser(self.improvement, self.reference, self._candidate, self.table, self._save, self.processes)
        budget, weight = chooser.search(budgets(self.config, self.improvement.snapshots))
        gain = chooser.confirm(budget, weight)
        beside = _beside(self.table.rows, self.improvement.space, budget, weight, chooser.metric)
        sentence = _sentence(gain, chooser.metric, budget, weight, self.improvement.weight is not None) + beside
        self.meta["best"] = {"budget": budget, "weight": weight, "metric": chooser.metric, **asdict(gain)}
        return self._finish(budget, weight, sentence, gain)

    def _finish(self, budget: int, weight: float, sentence: str, gain: Gain | None = None) -> Improved:
        use = gain is None or gain.is_sure or self.improvement.weight is not None
        model = self.candidates.make(budget, weight if use else 0.0, self.improvement.space, self.improvement.interval)
        candidate = self.candidates.make(budget, weight, self.improvement.space, self.improvement.interval)
        assert model.guidance is not None
        if self.processes.is_main:
            self.meta["sentence"] = sentence
            self._save()
            model.guidance.write(self.out)
        self.processes.barrier()
        return Improved(model, candidate, self.table, sentence, gain, self.candidates)

    def _candidate(self, budget: int, weight: float) -> Model:
        if weight == 0:
            return self.candidates.base
        return self.candidates.make(budget, weight, self.improvement.space, self.improvement.interval)

    def _scoring(self) -> dict[str, Any]:
        """What scores depend on beside candidate and seed: when it changes, old scores are void."""
        if self.reference is None:
            return {}
        interval = self.improvement.interval
        return {**self.reference.meta, "count": self.improvement.count, "interval": interval}

    def _save(self) -> None:
        if self.processes.is_main:
            self.table.write(self.out / "improve.json")


def _sentence(gain: Gain, metric: str, budget: int, weight: float, asked: bool) -> str:
    how = f"weight {weight:g} after {budget:,} images"
    change = f"{gain.mean:+.1%} gain in {metric} (95 % interval {gain.low:+.1%} to {gain.high:+.1%}, fresh noise)"
    if gain.is_sure:
        return f"{how}: {change}"
    if asked:
        return f"{how}, as asked: {change}; the interval includes no gain: keep the base model"
    return f"no sure gain: keep the base model (the best candidate, {how}: {change}); this model draws as the base"


def _beside(rows: list[dict[str, Any]], space: str, budget: int, weight: float, metric: str) -> str:
    """What became of the other metrics: a distance that falls at the price of recall is no gain to everyone."""
    means = []
    for candidate in ((0, 0.0), (budget, weight)):
        fresh = [
            row
            for row in rows
            if row["noise"] == "fresh" and row["space"] == space and (row["budget"], row["weight"]) == candidate
        ]
        means.append({name: fmean(row[name] for row in fresh) for name in _BESIDE if all(name in row for row in fresh)})
    changes = [f"{name} {means[0][name]:.2f} -> {means[1][name]:.2f}" for name in means[0] if name != metric]
    return f"; {', '.join(changes)}" if changes else ""


def _real_count(model: Model) -> int | None:
    """How many real images a model was trained on, if a run folder around it says so."""
    for folder in (model.path.parent, model.path.parent.parent):
        if (folder / "sources.json").exists():
            sources = read_json(folder / "sources.json")
            return next((source.get("count") for source in sources if source.get("label") == 0), None)
    return None


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):  # hashes, which tell a reader nothing
        return "the base model"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in names)
