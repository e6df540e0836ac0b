"""``shift``: a model whose composition is moved toward a target by its own samples (SIMS section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.improve.candidates import Candidates
from nomadiff.improve.fine_tuned_copy import FineTunedCopy
from nomadiff.improve.own_samples import own_count
from nomadiff.metrics.detectors.features import classify
from nomadiff.metrics.detectors.loading import load_classifier
from nomadiff.metrics.detectors.protocol import Classifier
from nomadiff.metrics.distance_names import FDR, distance_in, distance_name
from nomadiff.metrics.intervals import share_interval
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model, as_model
from nomadiff.models.provenance import refuse_training_set
from nomadiff.processes import Processes, join_processes
from nomadiff.seeding import mixed_seed
from nomadiff.shift.complement import REST, ComplementarySet, TargetGroup, target_groups
from nomadiff.shift.settings import Shift
from nomadiff.tables import Table

__all__ = ["ALL", "Shifted", "shift"]

ALL = "all"
"""Name of the whole set in the table."""

_OWN_SAMPLES, _SWEEP, _FRESH = 6, 7, 8  # keep the noise of the set, the sweep and the confirmation apart
_BESIDE = ("precision", "recall", "coverage")


@dataclass(frozen=True)
class Shifted:
    """The result of a shift.

    Attributes:
        model: the guided model, at the weight that is recommended.
        weight: that weight: the smallest that reaches the target or, if none does, the one that comes nearest.
        is_reached: whether all targets are reached at it, on noise that it was not chosen by.
        table: a row for each weight and group; ``group`` is "all" for the whole set. Fields: ``weight`` (0 is the
            base, -1 the copy), ``seed``, ``noise`` ("sweep", or "fresh" for base and recommended weight on noise that
            nothing was chosen by), ``group``, ``target``, ``count``, ``share`` with ``share_low`` and ``share_high``
            (95 %, exact), and with a reference ``reference_share``, the Frechet distance and ``precision``,
            ``recall``, ``density``, ``coverage``; of groups these are means over subsets of ``subset`` images, always
            as many, and None where a group has fewer. Rows of "all" have ``nfe`` too.
        sentence: the answer in words.
        groups: the groups and their targets, the rest included.
        candidates: the models of other weights.
    """

    model: Model
    weight: float
    is_reached: bool
    table: Table
    sentence: str
    groups: tuple[TargetGroup, ...] = field(repr=False)
    candidates: Candidates = field(repr=False)

    def text(self) -> str:
        """The sweep as lines to print: weight, share of each group with its interval, and what it cost."""
        distance = distance_in(self.table.fields)
        names = [group.name for group in self.groups]
        metrics = [(distance, name) for name in (*names, ALL)] if distance else []
        metrics += [(metric, ALL) for metric in _BESIDE] if metrics else []
        head = [f"share of {group.name} (target {group.target:.1%})" for group in self.groups]
        lines = [["weight", *head, *(metric if name == ALL else f"{metric} {name}" for metric, name in metrics)]]
        sweep = [row for row in self.table.rows if row["noise"] == "sweep"]
        for weight in sorted({row["weight"] for row in sweep}):
            rows = _by_group([row for row in sweep if row["weight"] == weight])
            line = [f"{weight:g}"]
            line += [
                f"{r['share']:.1%} [{r['share_low']:.1%}, {r['share_high']:.1%}]" for r in map(rows.get, names) if r
            ]
            values = [rows[name][metric] for metric, name in metrics]
            lines.append(line + ["-" if value is None else f"{value:.3g}" for value in values])
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def shift(
    model: Model | str | Path,
    out: str | Path,
    settings: Shift,
    *,
    classifier: str | Classifier,
    reference: ReferenceSet | None = None,
    device: str | None = None,
    command: str = "",
) -> Shifted:
    """Move a model's composition toward a target; continue if ``out`` holds the same shift half done.

    The model draws samples, the classifier labels them, and a set of them is composed that is complementary to the
    target (:func:`~nomadiff.shift.complement.complementary_shares`). A copy is fine-tuned on that set, and what is
    sampled is the extrapolation away from the copy, at the smallest weight that reaches the target. Once the copy is
    trained, other weights and another reference cost only their scores: call again.

    ``out`` becomes a model (``guidance.json``) with a copy of the base, the run folder ``auxiliary/`` and
    ``shift.json``, the table of all shares and scores.

    Args:
        model: the base, a single network, or where it is stored.
        out: folder of the shift.
        settings: target and everything else.
        classifier: assigns samples to classes: a name, a TorchScript file of logits, or one in memory.
        reference: held-out real images to measure distances to, overall and group by group; its images must be
            classified by the same classifier. Without it only the shares are measured.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        command: the command line, recorded in the table.

    Raises:
        UsageError: a target, classifier or reference that does not fit; ``out`` holds something else; the model is no
            single network, never draws a group, or draws the target composition already.
        DataError: a weight file is absent or damaged.
        NomadiffError: as training does.
        Interrupted: Ctrl-C or SIGTERM; what is done is kept.
    """
    processes = join_processes(device)
    model, out = as_model(model, "shift", processes.device), Path(out)
    model.network_for("shift")
    classifier = load_classifier(classifier, device=processes.device)
    # a blank image: a size that the classifier cannot read is an error now; TorchScript classes are known after it
    classify(classifier, torch.zeros((1, *model.image_shape), dtype=torch.uint8))
    groups = target_groups(settings.target, classifier.class_names)
    if reference is not None:
        _check_reference(reference, classifier, model)
        refuse_training_set(model, reference)
    count = own_count(model, settings.synthetic_count)
    own = ComplementarySet(model, out, count, mixed_seed(settings.seed, _OWN_SAMPLES) % (1 << 31), groups, classifier)
    depends = {
        "synthetic_count": count,
        "target": {group.name: group.target for group in groups if group.name != REST},
        "classifier": classifier.name,
        "classifier_sha256": classifier.sha256,
    }
    copy = FineTunedCopy(
        model, out, settings.fine_tuning, processes, table="shift.json", noun="shift", depends=depends, command=command
    )
    with copy.held():
        return _Task(settings, classifier, groups, reference, own, copy, processes).run()


@dataclass
class _Task:
    """One shift in one process."""

    settings: Shift
    classifier: Classifier
    groups: tuple[TargetGroup, ...]
    reference: ReferenceSet | None
    own: ComplementarySet
    copy: FineTunedCopy
    processes: Processes

    @property
    def table(self) -> Table:
        return self.copy.table

    def run(self) -> Shifted:
        """Do what is not done yet."""
        self.copy.claim({**(self.reference.meta if self.reference else {}), "count": self.settings.count})
        if not self.copy.is_trained:
            self.copy.train(self.own.draw(self.processes))
        if self.processes.is_main:
            self.own.drop()
        self.processes.barrier()
        (recorded,) = self.copy.run_folder.read_sources()
        self.base_shares = {each["group"]: each["base"] for each in recorded["composition"]}
        self.table.meta |= {"composition": recorded["composition"], "own_samples_drawn": recorded["drawn"]}
        self.candidates = self.copy.candidates()
        sweep = mixed_seed(self.settings.seed, _SWEEP) % (1 << 31)
        weights = sorted({0.0, *self.settings.weights})
        shares = {weight: _shares(self._score(weight, sweep, "sweep")) for weight in weights}
        misses = {weight: self._miss(shares[weight]) for weight in weights if weight > 0}
        reached = [weight for weight, miss in misses.items() if miss <= 0]
        weight = min(reached) if reached else min(misses, key=lambda weight: misses[weight])
        fresh = mixed_seed(self.settings.seed, _FRESH) % (1 << 31)
        before, after = (_by_group(self._score(each, fresh, "fresh")) for each in (0.0, weight))
        is_reached = self._miss(_shares(list(after.values()))) <= 0
        sentence = _sentence(self.groups, weight, is_reached, bool(reached), before, after, self._distance)
        model = self._model(weight)
        self.table.meta["best"] = {"weight": weight, "is_reached": is_reached}
        self.copy.finish(model, sentence)
        return Shifted(model, weight, is_reached, self.table, sentence, self.groups, self.candidates)

    def _miss(self, shares: Mapping[str, float]) -> float:
        """How much the target that is missed by most is missed by; 0 or less where every one is reached."""
        named = [group for group in self.groups if group.name != REST]
        signs = [1 if group.target > self.base_shares[group.name] else -1 for group in named]
        return max(sign * (group.target - shares[group.name]) for sign, group in zip(signs, named))

    def _model(self, weight: float) -> Model:
        budget = self.candidates.budgets[-1]
        if weight == 0:
            return self.candidates.base
        # at -1 the extrapolation is the copy, which by itself costs half
        return self.candidates.auxiliary(budget) if weight == -1 else self.candidates.make(budget, weight)

    def _score(self, weight: float, seed: int, noise: str) -> list[dict[str, Any]]:
        """The rows of one weight: drawn and scored, or remembered."""
        key = {"weight": weight, "seed": seed, "noise": noise}
        known = [row for row in self.table.rows if all(row[name] == value for name, value in key.items())]
        if known:
            return known
        model = self._model(weight)
        images = torch.cat(list(model.sample_batches(self.settings.count, seed, processes=self.processes, show=True)))
        rows = [{**key, **row} for row in self._rows(images)]
        rows[0]["nfe"] = model.nfe()
        self.table.rows += rows
        self.copy.save()
        return rows

    def _rows(self, images: Tensor) -> list[dict[str, Any]]:
        if self.reference is None:
            classes, rows = classify(self.classifier, images), [{"group": ALL, "count": len(images)}]
        else:
            features, found = self.reference.read(images)
            assert found is not None
            classes = found
            scores = {**self.reference.score_features(features), FDR: self.reference.fdr(features)}
            rows = [{"group": ALL, "count": len(images), **scores}]
        for group in self.groups:
            mine = torch.isin(classes, self._numbers(group))
            count = int(mine.sum())
            low, high = share_interval(count / len(images), len(images))
            row = {"group": group.name, "target": group.target, "count": count, "share": count / len(images)}
            rows.append({**row, "share_low": low, "share_high": high})
            if self.reference is not None:
                rows[-1] |= self._scores_of_group(group, features[mine])
        return rows

    def _scores_of_group(self, group: TargetGroup, features: Tensor) -> dict[str, Any]:
        """A group against the reference's images of it: means over as many subsets of one size as its samples fill.

        Distance, recall and coverage depend on the number of samples, so subsets of one size it takes to compare a
        group between weights at which it has different shares.
        """
        assert self.reference is not None and self.reference.classes is not None
        theirs = torch.isin(self.reference.classes, self._numbers(group))
        # half of what the group has at the base or at the target, so that both fill one
        least = min(group.target, self.base_shares[group.name])
        size = max(1, int(self.settings.count * least / 2))
        row: dict[str, Any] = {"reference_share": float(theirs.double().mean()), "subset": size}
        if min(size, int(theirs.sum())) <= self.reference.k or len(features) < size:
            return row | dict.fromkeys((distance_name(self.reference.detector), *_BESIDE))
        part = self.reference.subset(theirs)
        scores = [part.score_features(each) for each in features[: len(features) // size * size].split(size)]
        return row | {name: fmean(each[name] for each in scores) for name in scores[0]}

    def _numbers(self, group: TargetGroup) -> Tensor:
        """The class numbers of a group."""
        return torch.tensor([self.classifier.class_names.index(name) for name in group.classes])

    @property
    def _distance(self) -> str | None:
        return None if self.reference is None else distance_name(self.reference.detector)


def _check_reference(reference: ReferenceSet, classifier: Classifier, model: Model) -> None:
    if reference.features is None or reference.classes is None:
        raise UsageError("distances group by group need the reference's images and classes, and this one holds neither")
    if reference.classifier is None or reference.classifier.sha256 != classifier.sha256:
        raise UsageError(f"the reference must sort its images by the same classifier ({classifier.name})")
    if reference.images is not None and tuple(reference.images.shape[1:]) != model.image_shape:
        ours, theirs = ("x".join(map(str, shape)) for shape in (model.image_shape, reference.images.shape[1:]))
        raise UsageError(f"the model draws {ours} images, the reference has {theirs}")


def _by_group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["group"]: row for row in rows}


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {row["group"]: row["share"] for row in rows if row["group"] != ALL}


def _sentence(
    groups: Sequence[TargetGroup],
    weight: float,
    is_reached: bool,
    in_sweep: bool,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    distance: str | None,
) -> str:
    """The effect and cost of the recommended weight on fresh noise."""
    moved = [
        f"'{group.name}' {before[group.name]['share']:.1%} -> {after[group.name]['share']:.1%} "
        f"(95 % interval {after[group.name]['share_low']:.1%} to {after[group.name]['share_high']:.1%}, "
        f"target {group.target:.1%})"
        for group in groups
        if group.name != REST
    ]
    best = "reached it on the noise that chose it" if in_sweep else "comes nearest"
    start = f"weight {weight:g}" if is_reached else f"target not reached; weight {weight:g} {best}"
    told = f"{start}: {', '.join(moved)}, fresh noise"
    if distance is None:
        return f"{told}; what it cost in quality was not measured (no --reference)"
    costs = []
    for name in [*(group.name for group in groups), ALL]:
        one, other = before[name][distance], after[name][distance]
        if one is None or other is None:
            costs.append(f"'{name}' has too few images")
        elif name == ALL:
            costs.append(f"all {one:.3g} -> {other:.3g}, where the shift itself counts as distance")
        else:
            costs.append(f"'{name}' {one:.3g} -> {other:.3g} ({other / one - 1:+.0%})")
    beside = [f"{name} {before[ALL][name]:.2f} -> {after[ALL][name]:.2f}" for name in _BESIDE]
    return f"{told}; {distance} of {', of '.join(costs)}; {', '.join(beside)}"
