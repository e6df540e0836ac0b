"""Did the synthetic data help? CASD's three principles as measured statements, with intervals over seeds.

The table of ``nomadiff compare`` has one row for each arm (method, source) and seed. Every arm is set against real-only
training *of the same seed*, and the differences over the seeds give an interval (Student's t). Three answers follow:

1. *No harm and no bias*: distance, class composition and style are not worse than real-only.
2. *Positive utility*: distance, precision, recall, coverage or replication is better.
3. *Broad adaptability*: the method keeps 1 and 2 with every source it was tried with.

A method that guides a base (SIMS and its relatives) names its ``control``, the base's method trained on as many images.
Of it a fourth is asked, *gain*: is anything better than that control with the same source?

Arms that are not yet models (``untrained`` in a row says why) are called that, and no answer is given on them.

"yes" and "no" need an interval that excludes the other; otherwise the answer is "unclear", with an estimate of how many
seeds would settle it. The intervals are not corrected for multiple comparisons: of twenty statements without an effect,
one is expected to be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.metrics.evidence import WORDS, Evidence, Runs, against, seeds_text
from nomadiff.metrics.recommendation import COPIER, LONGER, Step, copying, listed, named, recommendation, untold
from nomadiff.metrics.statement import Statement
from nomadiff.tables import Table

__all__ = ["MARGINS", "Verdict", "judge"]

MARGINS = {"distance": 0.05, "composition_tv": 0.05, "style": 0.05}
"""How much worse still counts as "not worse": 5 % of the distance, 5 in 100 samples of another class or style."""

_FIELDS = [name for name in Evidence.__dataclass_fields__ if name != "runs"]  # the runs are the comparison's own table
UTILITY = ("distance", "precision", "recall", "coverage", "replication")


@dataclass
class Verdict:
    """All statements and what to do.

    Attributes:
        statements: in the order of the table's arms.
        recommendation: what a practitioner should do, in a sentence or two.
        notes: what limits the comparison (few seeds, unequal budgets, metrics that were not measured).
        level: level of the intervals.
        step: what the recommendation comes down to.
    """

    statements: list[Statement]
    recommendation: str
    notes: list[str] = field(default_factory=list)
    level: float = 0.95
    step: Step = LONGER

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
                rows.append({**head, **{name: getattr(item, name) for name in _FIELDS}})
            if not statement.evidence:
                rows.append(head)
        return Table(rows, {"recommendation": self.recommendation, "notes": self.notes, "level": self.level})

    def text(self) -> str:
        """The verdict as plain text."""
        lines = [self.recommendation, ""]
        for statement in self.statements:
            if statement.answer == "unclear" and statement.principle != "adaptability" and not statement.evidence:
                continue  # no model yet: the recommendation says so
            over = " over all sources" if statement.principle == "adaptability" else ""
            arm = statement.method + (f" with {statement.source!r}" if statement.source else over)
            lines.append(f"{arm}: {statement.words}. {statement.text}")
        return "\n".join(lines + [""] * bool(self.notes) + [f"Note: {note}" for note in self.notes])


def judge(
    rows: Iterable[Mapping[str, Any]], *, baseline: str = "dm", distance: str | None = None, level: float = 0.95
) -> Verdict:
    """Judge every arm of a comparison against real-only training.

    Args:
        rows: the rows of ``compare``'s table: ``method``, ``source`` (empty or None for the baseline and other methods
            that use no synthetic source), ``seed``, ``images_seen``, ``control`` (of a method that guides a base) and
            metrics, and ``untrained`` where
            a model is none yet. Of several rows of an arm and seed the one with the most images seen counts.
            ``style`` is :meth:`~nomadiff.metrics.reference.ReferenceSet.style` of the arm's own source; of an arm
            without one the mean over all sources, and ``style of NAME`` that of each.
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
    raw = {arm: why for arm, of_seed in {(baseline, ""): alone, **arms}.items() if (why := _untrained(of_seed))}
    models = [of_seed for arm, of_seed in arms.items() if arm not in raw]
    for (method, source), of_seed in arms.items():
        if why := raw.get((method, source), "") or raw.get((baseline, ""), ""):
            told = (
                f"{named((method, source) if (method, source) in raw else (baseline, ''))} is not yet a model ({why})."
            )
            statements += [Statement(each, method, source, "unclear", told) for each in ("no harm", "utility")]
            continue
        before = _in_style_of(source, alone)
        found = against(before, of_seed, roles, level, [before, *models])
        statements.append(_no_harm(method, source, found))
        statements.append(_utility("utility", method, source, found))
        control = next((row["control"] for row in of_seed.values() if row.get("control")), "")
        if (control, source) in arms and (
            control,
            source,
        ) not in raw:  # where the control is the baseline, the gain is the utility
            gained = against(arms[control, source], of_seed, roles, level, [before, *models])
            statements.append(_utility("gain", method, source, gained))
    for method in dict.fromkeys(method for method, source in arms if source and (method, source) not in raw):
        statements.append(_adaptability(method, statements))
    notes = _notes(alone, arms, statements)
    copied = _mean(alone, "replication")
    first = [untold(raw, [(baseline, ""), *arms])] if raw else []
    if copied is not None and copied > COPIER and (baseline, "") not in raw:
        first.append(copying(baseline, copied, {arm: _mean(of_seed, "replication") for arm, of_seed in arms.items()}))
    step = LONGER
    if models and (baseline, "") not in raw:
        judged = [item for item in statements if (item.method, item.source) not in raw]
        copies = copied is not None and copied > COPIER
        told, advised = recommendation(judged, baseline, copies=copies, unjudged={source for _, source in raw})
        first.append(told)
        step = advised if not raw or (advised.kind == "use" and advised.arm[0] != baseline) else step
    return Verdict(statements, " ".join(first), notes, level, step)


def _untrained(of_seed: Mapping[Any, Mapping[str, Any]]) -> str:
    """Why an arm is not yet a model: what its first untrained run says."""
    return next((str(row["untrained"]) for row in of_seed.values() if row.get("untrained")), "")


def _in_style_of(source: str, alone: Runs) -> Runs:
    """Real-only training with the style of one source, where it was asked of each by itself."""
    return {
        seed: {**row, "style": row[f"style of {source}"]} if f"style of {source}" in row else row
        for seed, row in alone.items()
    }


def _mean(of_seed: Mapping[Any, Mapping[str, Any]], metric: str) -> float | None:
    values = [float(row[metric]) for row in of_seed.values() if row.get(metric) is not None]
    return sum(values) / len(values) if values else None


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
        text = f"It does harm with {listed(failing)}."
        return Statement("adaptability", method, "", "no", text)
    useless = [source for source in sources if _answers(own, source)["utility"] == "no"]
    if useless:
        return Statement("adaptability", method, "", "no", f"It gains nothing with {listed(useless)}.")
    open_ = [source for source in sources if set(_answers(own, source).values()) != {"yes"}]
    if open_:
        return Statement("adaptability", method, "", "unclear", f"It is not settled for {listed(open_)}.")
    return Statement("adaptability", method, "", "yes", f"It helps without harm with {listed(sources)}.")


def _notes(alone: Mapping, arms: Mapping, statements: Sequence[Statement]) -> list[str]:
    notes = []
    counts = {item.seeds for statement in statements for item in statement.evidence}
    if counts and min(counts) < 3:
        notes.append(
            f"With {seeds_text(min(counts))} only very large differences can be told from chance; run three or more."
        )
    budgets = {row.get("images_seen") for arm in (alone, *arms.values()) for row in arm.values()}
    if len(budgets - {None}) > 1:
        notes.append("The arms saw different numbers of images: part of a difference may be the budget's.")
    copied = _mean(alone, "replication")
    if copied is not None and copied > COPIER:
        notes.append(
            f"{copied:.0%} of real-only training's samples replicate training images: its precision is theirs."
        )
    measured = {item.role for statement in statements for item in statement.evidence}
    if measured and (missing := [role for role in WORDS if role not in measured]):
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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
