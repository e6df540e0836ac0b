"""``improve``: a model made better by its own samples, without new data (SIMS Algorithm 1; Neon)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import remove_tree
from nomadiff.improve.auxiliary import budgets
from nomadiff.improve.candidates import Candidates
from nomadiff.improve.confirmation import Gain, repeated_gain
from nomadiff.improve.distillation import distil, teacher_of
from nomadiff.improve.fine_tuned_copy import FineTunedCopy
from nomadiff.improve.own_samples import OwnSamples, own_count
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import Chooser, check_scores
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.trained import why_untrained
from nomadiff.models.model import Model, as_model
from nomadiff.models.provenance import refuse_training_set
from nomadiff.processes import Processes, join_processes
from nomadiff.seeding import mixed_seed
from nomadiff.tables import Table
from nomadiff.training.fitting import Fitting
from nomadiff.training.matching import require_match

__all__ = ["Improved", "Task", "improve", "of_repeat"]

_BESIDE = ("precision", "recall", "coverage")
_OWN_SAMPLES = 2  # keeps the noise of the internal set apart from that of training and scoring
_REPEATS = 6
_STUDENT = 7


@dataclass(frozen=True)
class Improved:
    """The result of an improvement.

    Attributes:
        model: the model to use: the guided one, or the base (weight 0) where no gain was found.
        candidate: the guided model of the best weight and budget, whether it is used or not.
        table: every score: ``space`` (distilled: the student), ``weight`` (0 is the base), ``budget`` (images of
            fine-tuning), ``seed``, ``noise`` ("search" or "fresh"), one field a metric, and the cost as
            :func:`~nomadiff.improve.weight_search.score_model` gives it.
        sentence: the answer in words.
        gain: gain of the best candidate over the base on fresh noise; None when nothing was scored.
        candidates: the other models it could have become.
        distilled: one network that was taught what the model computes; None where that was not asked, or the base is
            what is used.
        distilled_gain: its gain over the base on fresh noise; None with it, or when nothing was scored.
        untrained: why the base is not yet a model; empty if it may be one.
    """

    model: Model
    candidate: Model
    table: Table
    sentence: str
    gain: Gain | None
    candidates: Candidates
    distilled: Model | None = None
    distilled_gain: Gain | None = None
    untrained: str = ""


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
    are chosen by their score (if they are not given); what is sampled is the extrapolation away from the copy. Once
    the auxiliary is trained, another ``space``, ``weight``, ``interval`` or metric costs only its scores: call again.

    ``out`` becomes a model (``guidance.json``) with a copy of the base, the run folder ``auxiliary/`` and
    ``improve.json``, the table of all scores. With ``distil`` the student lies in ``distilled/``, a model of its own.

    Args:
        model: the base: a single network (for a CASD model its real source is improved), or where it is stored.
        out: folder of the improvement.
        improvement: settings.
        reference: what to choose by, best real images held out from training. Needed unless a weight is given; without
            it nothing is scored.
        synthetic: another model's samples to fine-tune on instead of its own (Neon's cross-model setting).
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        command: the command line, recorded in the table.

    Returns:
        The improved model, its scores, and the answer in a sentence.

    Raises:
        UsageError: ``out`` holds something else, ``synthetic`` is not what the model draws, the model is no single
            network, a setting is missing, or the reference is the model's training set.
        NomadiffError: as training does.
        Interrupted: Ctrl-C or SIGTERM; what is done is kept.
    """
    task = Task.of(
        model,
        Path(out),
        improvement or Improvement(),
        reference=reference,
        synthetic=synthetic,
        device=device,
        command=command,
    )
    with task.copy.held():
        return task.run()


def of_repeat(improvement: Improvement, number: int) -> Improvement:
    """The settings of another copy of the same base, which lies in ``repeat-NUMBER``; ``number`` counts from 2."""
    seed = mixed_seed(improvement.seed, _REPEATS, number) % (1 << 31)
    return replace(improvement, repeats=1, seed=seed, distil=False, keep_synthetic=False)


@dataclass
class Task:
    """One improvement in one process; :meth:`of` makes it. Who calls :meth:`prepare` or :meth:`run` holds the copy.

    Attributes:
        improvement: settings.
        reference: what is scored against; None where nothing is.
        synthetic: another model's samples to fine-tune on.
        own: the model's own.
        copy: the folder, with the copy and the table of scores.
        processes: who takes part.
        another: gives the gain of another copy of the base, by its number.
    """

    improvement: Improvement
    reference: ReferenceSet | None
    synthetic: ImageSource | None
    own: OwnSamples
    copy: FineTunedCopy
    processes: Processes
    another: Callable[[int], Gain]

    @classmethod
    def of(
        cls,
        model: Model | str | Path,
        out: Path,
        improvement: Improvement,
        *,
        reference: ReferenceSet | None = None,
        synthetic: ImageSource | None = None,
        device: str | None = None,
        command: str = "",
    ) -> Task:
        """Check everything; nothing is written. Arguments and errors are those of :func:`improve`."""
        if improvement.weight is None and reference is None:
            raise UsageError("choosing a weight needs --reference (held-out real images); or pass --weight, such as 1")
        if improvement.repeats > 1 and reference is None:
            raise UsageError("repeats say how sure a gain is: they need --reference (held-out real images)")
        if improvement.metric is not None and reference is None:
            raise UsageError(
                f"--metric {improvement.metric} needs --reference (held-out real images) to be measured on"
            )
        processes = join_processes(device)
        model = as_model(model, "improve", processes.device)
        model.network_for("improve")
        if improvement.distil:
            _ = model.config  # its UsageError: a student is built by the base's recipe
        if reference is not None:
            refuse_training_set(model, reference)
            check_scores(improvement, reference)
            if model.draws_latents:
                model.autoencoder  # noqa: B018 - its errors: candidates are decoded to be scored
        count = len(synthetic) if synthetic is not None else own_count(model, improvement.synthetic_count)
        depends: dict[str, Any] = {"synthetic_count": count}
        if synthetic is not None:
            depends["synthetic"] = synthetic.content_hash
        own = OwnSamples(model, out, count, mixed_seed(improvement.seed, _OWN_SAMPLES) % (1 << 31))
        copy = FineTunedCopy(
            model,
            out,
            improvement,
            processes,
            table="improve.json",
            noun="improvement",
            depends=depends,
            command=command,
        )
        if synthetic is not None:
            require_match(copy.config, SourceMix(synthetic))

        def another(number: int) -> Gain:
            """The gain of another copy of the same base."""
            settings, path = of_repeat(improvement, number), out / f"repeat-{number}"
            gain = improve(model, path, settings, reference=reference, synthetic=synthetic, device=device).gain
            assert gain is not None
            return gain

        return cls(improvement, reference, synthetic, own, copy, processes, another)

    @property
    def table(self) -> Table:
        return self.copy.table

    @cached_property
    def candidates(self) -> Candidates:
        return self.copy.candidates()

    def prepare(self) -> None:
        """Claim the folder, draw the own samples and train the copy, or what is not done of it."""
        self.copy.claim(self.scoring())
        finished = self.copy.is_trained
        if self.synthetic is None and (not finished or (self._keeps and not self.own.archive.exists())):
            self.own.draw(self.processes)
        if not finished:
            self.copy.train(self.own.open() if self.synthetic is None else self.synthetic)
        if not self.improvement.distil:
            self._drop()

    def run(self, take: Callable[[], None] = lambda: None) -> Improved:
        """Do what is not done yet; ``take`` adds what other processes have scored to the table."""
        self.prepare()
        take()
        done = self._choose()
        if self.improvement.distil:
            done = self._distilled(done)
            self._drop()
        return done

    @property
    def _keeps(self) -> bool:
        return self.improvement.keep_synthetic and self.synthetic is None

    def _drop(self) -> None:
        if self.processes.is_main:
            self.own.drop(keep=self._keeps)
        self.processes.barrier()

    def _distilled(self, done: Improved) -> Improved:
        """Teach a student what the model that is used computes, and compare it with the base."""
        folder, teacher = self.copy.out / "distilled", done.model
        assert teacher.guidance is not None
        used = teacher.guidance.weight != 0
        found = teacher_of(folder)
        self.processes.barrier()  # every process has looked before the main one writes
        if self.processes.is_main and folder.exists() and (not used or found not in (None, teacher.sha256)):
            remove_tree(folder)  # the student of another weight, budget or interval
        self.processes.barrier()
        if not used:
            return self._told(done, "nothing is distilled, as the base is what is used")
        if found == teacher.sha256:
            student = Model.load(folder, device=self.processes.device)
        else:
            if self.synthetic is None:
                self.own.draw(self.processes)  # those that are not there
            images = self.own.open() if self.synthetic is None else self.synthetic
            student = distil(teacher, images, folder, self._fitting(), processes=self.processes)
        if self.reference is None:
            return replace(self._told(done, "one network in distilled/"), distilled=student)
        best = self.table.meta["best"]
        gain = self.chooser.of("distilled", student).confirm(best["budget"], best["weight"])
        self.table.meta["distilled"] = asdict(gain)
        sure = "" if gain.is_sure else ", which is not sure"
        told = f"{gain.mean:+.1%} (95 % interval {gain.low:+.1%} to {gain.high:+.1%}){sure}"
        done = self._told(done, f"distilled into one network, at the base's cost: {told}")
        return replace(done, distilled=student, distilled_gain=gain)

    def _told(self, done: Improved, more: str) -> Improved:
        sentence = f"{done.sentence}; {more}"
        self.copy.finish(done.model, sentence)
        return replace(done, sentence=sentence)

    def _fitting(self) -> Fitting:
        """The distillation takes the fine-tuning's options."""
        options = self.copy.config.training
        return Fitting(
            budget=options.budget,
            batch=options.batch,
            learning_rate=options.learning_rate,
            ema_half_life=options.ema_half_life,
            save_every=options.snapshot_every,
            seed=mixed_seed(self.improvement.seed, _STUDENT) % (1 << 31),
        )

    @cached_property
    def chooser(self) -> Chooser:
        return self.chooser_of(self.table, self.copy.save)

    def chooser_of(self, table: Table, save: Callable[[], None]) -> Chooser:
        """Scores candidates into a table."""
        assert self.reference is not None
        return Chooser(self.improvement, self.reference, self._candidate, table, save, self.processes)

    @property
    def budgets(self) -> list[int]:
        """Images of fine-tuning of the snapshots to choose from."""
        return budgets(self.copy.config, self.improvement.snapshots)

    def _choose(self) -> Improved:
        if self.reference is None:
            assert self.improvement.weight is not None
            final = self.budgets[-1]
            sentence = f"weight {self.improvement.weight:g} as asked; nothing was scored (no --reference)"
            return self._finish(final, self.improvement.weight, sentence)
        chooser = self.chooser
        budget, weight = chooser.search(self.budgets)
        gain = chooser.confirm(budget, weight)
        gains = [gain, *(self.another(number) for number in range(2, self.improvement.repeats + 1))]
        if len(gains) > 1:
            gain = repeated_gain(gains)
            self.table.meta["repeats"] = [asdict(each) for each in gains]
        beside = _beside(self.table.rows, self.improvement.space, budget, weight, chooser.metric)
        sentence = _sentence(gains, gain, chooser.metric, budget, weight, self.improvement.weight is not None) + beside
        half = chooser.halves["fresh"]
        base_row = next(row for row in self.table.rows if row["noise"] == "fresh" and row["weight"] == 0)
        if why := why_untrained(base_row, half.floor(count=self.improvement.count)):
            sentence = f"the base is not yet a model ({why}): train it longer first; no gain is claimed"
            gain = replace(gain, excess_low=min(gain.excess_low or 0.0, 0.0))
        self.table.meta["best"] = {"budget": budget, "weight": weight, "metric": chooser.metric, **asdict(gain)}
        return replace(self._finish(budget, weight, sentence, gain), untrained=why)

    def _finish(self, budget: int, weight: float, sentence: str, gain: Gain | None = None) -> Improved:
        use = gain is None or gain.is_sure or self.improvement.weight is not None
        model = self.candidates.make(budget, weight if use else 0.0, self.improvement.space, self.improvement.interval)
        candidate = self.candidates.make(budget, weight, self.improvement.space, self.improvement.interval)
        self.copy.finish(model, sentence)
        return Improved(model, candidate, self.table, sentence, gain, self.candidates)

    def _candidate(self, budget: int, weight: float) -> Model:
        if weight == 0:
            return self.candidates.base
        return self.candidates.make(budget, weight, self.improvement.space, self.improvement.interval)

    def scoring(self) -> dict[str, Any] | None:
        """The settings that scores depend on beside candidate and seed; None where nothing is scored."""
        if self.reference is None:
            return None
        interval = self.improvement.interval
        halves = "one to choose, one to confirm"  # scores by the whole reference, as of earlier versions, are void
        return {**self.reference.meta, "count": self.improvement.count, "interval": interval, "halves": halves}


def _sentence(gains: Sequence[Gain], gain: Gain, metric: str, budget: int, weight: float, asked: bool) -> str:
    how = f"weight {weight:g} after {budget:,} images"
    known = "fresh noise"
    if len(gains) > 1:
        known = f"{len(gains)} copies: {', '.join(f'{each.mean:+.1%}' for each in gains)}"
    change = f"{gain.mean:+.1%} gain in {metric} (95 % interval {gain.low:+.1%} to {gain.high:+.1%}, {known})"
    if gain.is_sure:
        return f"{how}: {change}"
    reason = "the interval includes no gain"
    if gain.low > 0 and gain.chance is not None:
        reason = f"it would gain {gain.chance:+.1%} if the base were the truth: so few samples and images cannot tell"
        change = f"{change}; {reason}"
    if asked:
        return f"{how}, as asked: {change}{'' if reason in change else f'; {reason}'}: keep the base model"
    return f"no sure gain: keep the base model (the best candidate, {how}: {change}); this model draws as the base"


def _beside(rows: list[dict[str, Any]], space: str, budget: int, weight: float, metric: str) -> str:
    """Changes of the other metrics, since a smaller distance may come with a lower recall."""
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
