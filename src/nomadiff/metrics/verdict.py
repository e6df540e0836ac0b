"""Did the synthetic data help? CASD's three principles as measured statements, with intervals over seeds.

The table of ``nomadiff compare`` has one row for each arm (method, source) and seed. Every arm is set against real-only
training *of the same seed*, and the differences over the seeds give an interval (Student's t). Three answers follow:

1. *No harm and no bias*: distance, class composition and style are not worse than real-only.
2. *Positive utility*: distance, precision, recall, coverage or replication is better.
3. *Broad adaptability*: the method keeps 1 and 2 with every source it was tried with.

A method that guides a base (SIMS and its relatives) names its ``control``, the base's method trained on as many images.
Of it a fourth is asked, *gain*: is anything better than that control with the same source?

"yes" and "no" need an interval that excludes the other; otherwise the answer is "unclear", with an estimate of how many
seeds would settle it. The intervals are not corrected for multiple comparisons: of twenty statements without an effect,
one is expected to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nomadiff.errors import UsageError
from nomadiff.tables import Table

__all__ = ["MARGINS", "Evidence", "Statement", "Verdict", "judge"]

Answer = Literal["yes", "no", "unclear", "not measured"]

MARGINS = {"distance": 0.05, "composition_tv": 0.05, "style": 0.05}
"""How much worse still counts as "not worse": 5 % of the distance, 5 in 100 samples of another class or style."""

COPIER = 0.2  # share of replicated samples from which on the baseline's precision says little: four times fresh data's
UTILITY = ("distance", "precision", "recall", "coverage", "replication")
LOWER_IS_BETTER = {"distance", "composition_tv", "style", "replication"}
WORDS = {
    "distance": ("closer to real images", "farther from real images"),
    "composition_tv": ("nearer to the real class shares", "farther from the real class shares"),
    "style": ("less like the synthetic source", "more like the synthetic source"),
    "replication": ("fewer copies of training images", "more copies of training images"),
    "precision": ("more samples look real", "fewer samples look real"),
    "recall": ("more of the real variety is reached", "less of the real variety is reached"),
    "coverage": ("more real images have a sample near them", "fewer real images have a sample near them"),
}


@dataclass(frozen=True)
class Evidence:
    """One metric of one arm against real-only training.

    Attributes:
        metric: its name in the table.
        role: "distance", or the metric's own name.
        baseline: mean of real-only training over the common seeds.
        value: mean of the arm over the same seeds.
        worse: how much worse the arm is: the relative change for the distance, the difference for all others;
            negative is better.
        low, high: interval of ``worse``; infinite for a single seed.
        seeds: number of common seeds.
        needed: estimated number of seeds at which the interval would leave 0 out; None if it does, or cannot be said.
    """

    metric: str
    role: str
    baseline: float
    value: float
    worse: float
    low: float
    high: float
    seeds: int
    needed: int | None

    def sentence(self) -> str:
        """The finding in words, with its numbers."""
        better, worse = WORDS[self.role]
        words = better if self.worse < 0 else worse
        relative = self.role == "distance"
        amount = f"{abs(self.worse):.0%}" if relative else f"{abs(self.worse):.2g}"
        # said as the change of the metric itself, whichever way is worse
        ends = (self.low, self.high) if self.role in LOWER_IS_BETTER else (-self.high, -self.low)
        low, high = (f"{end:+.0%}" if relative else f"{end:+.2g}" for end in ends)
        spread = "one seed" if self.seeds == 1 else f"change {low} to {high}"
        return f"{words} by {amount} ({self.metric} {self.value:.3g} against {self.baseline:.3g}; {spread})"


@dataclass(frozen=True)
class Statement:
    """One principle, asked of one method with one source (with all of them for adaptability).

    Attributes:
        principle: "no harm", "utility", "gain" or "adaptability".
        method: the method that is judged.
        source: name of the synthetic source; empty for adaptability, and for a method that uses none.
        answer: "yes", "no", "unclear" or "not measured".
        text: the answer in words.
        evidence: the measurements behind it.
    """

    principle: str
    method: str
    source: str
    answer: Answer
    text: str
    evidence: tuple[Evidence, ...] = ()


@dataclass
class Verdict:
    """All statements and what to do.

    Attributes:
        statements: in the order of the table's arms.
        recommendation: what a practitioner should do, in a sentence or two.
        notes: what limits the comparison (few seeds, unequal budgets, metrics that were not measured).
        level: level of the intervals.
    """

    statements: list[Statement]
    recommendation: str
    notes: list[str] = field(default_factory=list)
    level: float = 0.95

    def find(self, principle: str, method: str, source: str = "") -> Statement:
        """The statement about this principle, method and source.

        Raises:
            UsageError: there is none.
        """
        for statement in self.statements:
            if (statement.principle, statement.method, statement.source) == (principle, method, source):
                return statement
        raise UsageError(f"the verdict has no statement on {principle!r} for {method} with source {source!r}")

    def table(self) -> Table:
        """One row for each piece of evidence (one without metric for a statement that has none)."""
        rows: list[dict[str, Any]] = []
        for statement in self.statements:
            head = {name: getattr(statement, name) for name in ("principle", "method", "source", "answer")}
            for item in statement.evidence:
                rows.append({**head, **{name: getattr(item, name) for name in Evidence.__dataclass_fields__}})
            if not statement.evidence:
                rows.append(head)
        return Table(rows, {"recommendation": self.recommendation, "notes": self.notes, "level": self.level})

    def text(self) -> str:
        """The verdict as plain text."""
        lines = [self.recommendation, ""]
        for statement in self.statements:
            over = " over all sources" if statement.principle == "adaptability" else ""
            arm = statement.method + (f" with {statement.source!r}" if statement.source else over)
            lines.append(f"{arm}: {statement.principle}: {statement.answer.upper()}. {statement.text}")
        return "\n".join(lines + [""] * bool(self.notes) + [f"Note: {note}" for note in self.notes])


def judge(
    rows: Iterable[Mapping[str, Any]], *, baseline: str = "dm", distance: str | None = None, level: float = 0.95
) -> Verdict:
    """Judge every arm of a comparison against real-only training.

    Args:
        rows: the rows of ``compare``'s table: ``method``, ``source`` (empty or None for the baseline and other methods
            that use no synthetic source), ``seed``, ``images_seen``, ``control`` (of a method that guides a base) and
            metrics. Of several rows of an arm and seed the one with the most images seen counts.
            ``style`` is :meth:`~nomadiff.metrics.reference.ReferenceSet.style` of the arm's own source.
        baseline: the method that was trained on real images only.
        distance: the metric that decides; by default the first of the table whose name begins with ``fid`` or ``fd_``.
        level: level of the intervals.

    Raises:
        UsageError: there is no baseline, nothing to judge, or no distance.
    """
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1 (0.95 for 95 %), got {level}")
    arms = _arms(rows)
    alone = arms.pop((baseline, ""), None)
    if alone is None:
        raise UsageError(f"the table has no rows of {baseline!r} without a source: there is nothing to compare with")
    if not arms:
        raise UsageError(f"the table has no rows but those of {baseline!r}: there is nothing to judge")
    names = list(dict.fromkeys(name for row in alone.values() for name in row))
    distance = distance or next((name for name in names if name == "fid" or name.startswith("fd_")), None)
    if distance is None or distance not in names:
        raise UsageError(f"the table has no distance {distance or 'fid or fd_...'!r} for {baseline!r}")
    roles = {"distance": distance, **{name: name for name in WORDS if name != "distance"}}
    statements = []
    for (method, source), of_seed in arms.items():
        found = _against(alone, of_seed, roles, level)
        statements.append(_no_harm(method, source, found))
        statements.append(_utility("utility", method, source, found))
        control = next((row["control"] for row in of_seed.values() if row.get("control")), "")
        if (control, source) in arms:  # where the control is the baseline, the gain is the utility
            gained = _against(arms[control, source], of_seed, roles, level)
            statements.append(_utility("gain", method, source, gained))
    for method in dict.fromkeys(method for method, source in arms if source):
        statements.append(_adaptability(method, statements))
    notes = _notes(alone, arms, statements)
    return Verdict(statements, _recommendation(statements, baseline), notes, level)


def _arms(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[Any, Mapping[str, Any]]]:
    """The last row of every arm and seed."""
    arms: dict[tuple[str, str], dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        if "method" not in row or "seed" not in row:
            raise UsageError("every row needs the fields method and seed (a table of nomadiff compare has them)")
        of_seed = arms.setdefault((row["method"], row.get("source") or ""), {})
        earlier = of_seed.get(row["seed"])
        if earlier is None or (row.get("images_seen") or 0) >= (earlier.get("images_seen") or 0):
            of_seed[row["seed"]] = row
    return arms


def _against(
    before: Mapping[Any, Mapping], arm: Mapping[Any, Mapping], roles: Mapping[str, str], level: float
) -> dict[str, Evidence]:
    """Everything that was measured of an arm, set against another; by role."""
    evidence = {role: _evidence(metric, role, before, arm, level) for role, metric in roles.items()}
    return {role: item for role, item in evidence.items() if item is not None}


def _evidence(
    metric: str, role: str, alone: Mapping[Any, Mapping], arm: Mapping[Any, Mapping], level: float
) -> Evidence | None:
    """The paired comparison over the seeds both have; None where the metric was not measured."""
    pairs = []
    for seed in arm.keys() & alone.keys():
        # the style of a source is asked of the arms that saw it; real-only training has none to show
        before = alone[seed].get(metric, 0.0 if role == "style" else None)
        if before is not None and arm[seed].get(metric) is not None:
            pairs.append((float(before), float(arm[seed][metric])))
    if not pairs:
        return None
    before, after = np.array(pairs).T
    relative = role == "distance"
    if relative:
        tiny = np.finfo(float).tiny
        change = np.log(np.maximum(after, tiny) / np.maximum(before, tiny))
    else:
        change = after - before if role in LOWER_IS_BETTER else before - after
    mean, low, high, needed = _interval(change, level)
    if relative:
        mean, low, high = (math.expm1(min(value, 700.0)) for value in (mean, low, high))
    return Evidence(
        metric, role, float(before.mean()), float(after.mean()), mean, low, high, seeds=len(pairs), needed=needed
    )


def _interval(change: np.ndarray, level: float) -> tuple[float, float, float, int | None]:
    """Mean, interval, and the number of seeds at which the interval would leave 0 out."""
    from scipy.stats import t

    count, mean = len(change), float(change.mean())
    if count == 1:
        return mean, -math.inf, math.inf, None
    spread = float(change.std(ddof=1))
    width = float(t.ppf((1 + level) / 2, count - 1)) * spread / math.sqrt(count)
    needed = None
    if abs(mean) <= width and mean != 0:
        for more in range(count + 1, 101):
            if float(t.ppf((1 + level) / 2, more - 1)) * spread / math.sqrt(more) < abs(mean):
                needed = more
                break
    return mean, mean - width, mean + width, needed


def _no_harm(method: str, source: str, evidence: Mapping[str, Evidence]) -> Statement:
    judged = [evidence[role] for role in MARGINS if role in evidence]
    if not judged:
        return Statement("no harm", method, source, "not measured", "None of its metrics is in the table.")
    # harm is excluded when no part of the interval exceeds the margin, and shown when all of it is worse and the mean
    # exceeds the margin
    harmed = [item for item in judged if item.low > 0 and item.worse > MARGINS[item.role]]
    unsure = [item for item in judged if item not in harmed and item.high > MARGINS[item.role]]
    if harmed:
        text = "Harm: " + "; ".join(item.sentence() for item in harmed) + "."
        return Statement("no harm", method, source, "no", text, tuple(judged))
    if unsure:
        text = "Cannot be told: " + "; ".join(item.sentence() for item in unsure) + "." + _seeds_needed(unsure)
        return Statement("no harm", method, source, "unclear", text, tuple(judged))
    text = _capital("; ".join(item.sentence() for item in judged)) + "."
    if any(item.worse > 0 for item in judged):
        text += f" What is worse stays within what counts as none ({_margins(judged)})."
    return Statement("no harm", method, source, "yes", text, tuple(judged))


def _utility(principle: str, method: str, source: str, evidence: Mapping[str, Evidence]) -> Statement:
    judged = [evidence[role] for role in UTILITY if role in evidence]
    if not judged:
        return Statement(principle, method, source, "not measured", "None of its metrics is in the table.")
    gained = [item for item in judged if item.high < 0]
    if gained:
        text = _capital("; ".join(item.sentence() for item in gained)) + "."
        if lost := [item for item in judged if item.low > 0]:
            text += " At a price: " + "; ".join(item.sentence() for item in lost) + "."
        return Statement(principle, method, source, "yes", text, tuple(judged))
    open_ = [item for item in judged if item.low < 0]
    if not open_:
        text = "Nothing is better: " + "; ".join(item.sentence() for item in judged) + "."
        return Statement(principle, method, source, "no", text, tuple(judged))
    likely = [item for item in open_ if item.worse < 0] or open_
    text = "Cannot be told: " + "; ".join(item.sentence() for item in likely) + "." + _seeds_needed(likely)
    return Statement(principle, method, source, "unclear", text, tuple(judged))


def _adaptability(method: str, statements: Sequence[Statement]) -> Statement:
    own = [item for item in statements if item.method == method and item.principle != "gain"]
    sources = list(dict.fromkeys(item.source for item in own))
    if len(sources) < 2:
        return Statement(
            "adaptability", method, "", "not measured", f"It was tried with one source, {sources[0]!r}; try another."
        )
    failing = [source for source in sources if _answers(own, source)["no harm"] == "no"]
    if failing:
        text = f"It does harm with {_listed(failing)}."
        return Statement("adaptability", method, "", "no", text)
    useless = [source for source in sources if _answers(own, source)["utility"] == "no"]
    if useless:
        return Statement("adaptability", method, "", "no", f"It gains nothing with {_listed(useless)}.")
    open_ = [source for source in sources if set(_answers(own, source).values()) != {"yes"}]
    if open_:
        return Statement("adaptability", method, "", "unclear", f"It is not settled for {_listed(open_)}.")
    return Statement("adaptability", method, "", "yes", f"It helps without harm with {_listed(sources)}.")


def _recommendation(statements: Sequence[Statement], baseline: str) -> str:
    arms = list(dict.fromkeys((item.method, item.source) for item in statements if item.principle == "no harm"))
    answers = {arm: {item.principle: item for item in statements if (item.method, item.source) == arm} for arm in arms}

    def gain(arm: tuple[str, str]) -> float:
        found = [item.worse for item in answers[arm]["utility"].evidence if item.role == "distance"]
        return found[0] if found else 0.0

    def are(harm: Iterable[str], use: str) -> list[tuple[str, str]]:
        """The arms with these answers, the one nearest to real images first."""
        chosen = [
            arm for arm in arms if answers[arm]["no harm"].answer in harm and answers[arm]["utility"].answer == use
        ]
        return sorted(chosen, key=gain)

    best, hopeful = are(["yes"], "yes"), are(["unclear"], "yes") + are(["yes", "unclear"], "unclear")
    harmful = {source for _, source in arms if source} - {
        source for method, source in arms if answers[method, source]["no harm"].answer != "no"
    }
    sentences = []
    if best:
        sentences.append(f"Use {_name(best[0])}: it helps and does no harm.")
    elif hopeful:
        method, source = hopeful[0]
        needed = [
            item.needed
            for principle in ("no harm", "utility")
            for item in answers[method, source][principle].evidence
            if item.needed is not None
        ]
        more = f" (about {min(needed)} would settle the nearest question)" if needed else ""
        sentences.append(
            f"Do not decide yet: {_name((method, source))} may help, but these seeds cannot show that it does "
            f"and does no harm; run more seeds{more}. Until then train on real images only ({baseline})."
        )
    else:
        nothing = "no synthetic source" if all(source for _, source in arms) else "nothing that was tried"
        sentences.append(f"Train on real images only ({baseline}): {nothing} helps without harm.")
    if harmful:
        sentences.append(f"Drop source {_listed(sorted(harmful))}: it does harm with every method that was tried.")
    for arm in arms:
        if answers[arm]["no harm"].answer == "no" and arm[1] not in harmful:
            sentences.append(f"Do not use {_name(arm)}: it does harm.")
    return " ".join(sentences)


def _notes(alone: Mapping, arms: Mapping, statements: Sequence[Statement]) -> list[str]:
    notes = []
    counts = {item.seeds for statement in statements for item in statement.evidence}
    if counts and min(counts) < 3:
        notes.append(
            f"With {min(counts)} seed(s) only very large differences can be told from chance; run three or more."
        )
    budgets = {row.get("images_seen") for arm in (alone, *arms.values()) for row in arm.values()}
    if len(budgets - {None}) > 1:
        notes.append("The arms saw different numbers of images: part of a difference may be the budget's.")
    copied = [row["replication"] for row in alone.values() if row.get("replication") is not None]
    if copied and sum(copied) / len(copied) > COPIER:
        share = sum(copied) / len(copied)
        notes.append(f"{share:.0%} of real-only training's samples replicate training images: its precision is theirs.")
    measured = {item.role for statement in statements for item in statement.evidence}
    if missing := [role for role in WORDS if role not in measured]:
        notes.append(f"Not measured: {', '.join(missing)}.")
    return notes


def _answers(statements: Sequence[Statement], source: str) -> dict[str, str]:
    return {item.principle: item.answer for item in statements if item.source == source}


def _margins(items: Sequence[Evidence]) -> str:
    return ", ".join(
        f"{MARGINS[item.role]:.0%} of {item.metric}"
        if item.role == "distance"
        else f"{MARGINS[item.role]} of {item.metric}"
        for item in items
        if item.worse > 0
    )


def _seeds_needed(items: Sequence[Evidence]) -> str:
    needed = [item.needed for item in items if item.needed is not None]
    return f" About {min(needed)} seeds would settle one of these." if needed else ""


def _name(arm: tuple[str, str]) -> str:
    method, source = arm
    return f"{method} with source {source!r}" if source else method


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
