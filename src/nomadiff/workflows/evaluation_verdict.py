"""What an evaluation says, in sentences: how near to real images, what is missing, whether it copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomadiff.metrics.distance_names import FDR, distance_in
from nomadiff.metrics.recommendation import COPIER
from nomadiff.metrics.replication import shared
from nomadiff.metrics.trained import why_untrained
from nomadiff.workflows.evaluate import Evaluation

__all__ = ["FEWEST", "copying_sets", "verdict_on"]

FEWEST = 40  # images of a set, as many as an interval takes
_LESS = 0.8  # of what fresh real data scores: so much less is told
_EQUAL = (0.9, 1.1)  # ratios to fresh real data that count as none
_LACKS = {  # as true of a share of 0 as of one just below
    "precision": "Too few of the samples lie among the real images",
    "recall": "Too few of the real images lie among the samples",
    "coverage": "Too few of the real images have a sample near them",
}

Rows = Mapping[str, Mapping[str, Any]]


def verdict_on(evaluation: Evaluation) -> list[str]:
    """The answer in sentences; of several sets, which is the nearest and how sure that is."""
    sets = _rows(evaluation)
    return [*_known(evaluation), *_verdict(evaluation, sets)]


def _verdict(evaluation: Evaluation, sets: Mapping[str, Rows]) -> list[str]:
    counts = [len(source) for source in (*evaluation.samples.values(), evaluation.reference) if source is not None]
    if min(counts) < FEWEST:
        return [f"So few images ({min(counts)}) give no verdict on the distance.", *_copies(evaluation, sets)]
    if not evaluation.several:
        (rows,) = sets.values()
        unlike = _unlike({"The samples": rows})
        return [
            *unlike,
            _nearness(rows),
            *([] if unlike else _lacks(rows)),
            *_copies(evaluation, {"The samples": rows}),
        ]
    sizes = {len(source) for source in evaluation.samples.values()}
    nearest = _nearest(sets) if len(sizes) == 1 else _nearest_by_ratio(sets)
    return [nearest, *_unlike(sets), *_copies(evaluation, sets)]


def _known(evaluation: Evaluation) -> list[str]:
    """The sets that hold images of the reference: a folder given twice, or a generator's set made of real images."""
    if evaluation.reference is None:
        return []
    told = []
    for name, source in evaluation.samples.items():
        if both := shared(source.pixels, evaluation.reference.pixels):
            of = name if evaluation.several else "the samples"
            told.append(
                f"{both:,} of {len(source):,} images of {of} are in the reference itself: this is no test of them."
            )
    return told


def copying_sets(evaluation: Evaluation) -> list[str]:
    """The sets of which a large part repeats training images."""
    return [name for name, rows in _rows(evaluation).items() if (_value(rows, "replication") or 0) > COPIER]


def _rows(evaluation: Evaluation) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The rows of all images together, by set and metric."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in evaluation.samples}
    for row in evaluation.table.rows:
        if not row.get("group"):
            found[row.get("set", next(iter(found)))][row["metric"]] = row
    return found


def _value(rows: Rows, metric: str, field: str = "value") -> float | None:
    value = rows.get(metric, {}).get(field)
    return None if value is None else float(value)


def _nearness(rows: Rows) -> str:
    ratio = _value(rows, FDR)
    distance = distance_in(rows)
    if ratio is None:
        return (
            f"{distance} {_value(rows, distance):.3g}; the reference does not tell what fresh real images would score."
        )
    told = f"FDr {ratio:.2f}"
    if _EQUAL[0] <= ratio <= _EQUAL[1]:
        return f"By {distance} the samples are as near to the reference as fresh real images are ({told})."
    if ratio < 1:
        return f"By {distance} the samples are nearer to the reference than fresh real images, as copies are ({told})."
    return f"By {distance} the samples are {ratio:.2f} times as far from the reference as fresh real images ({told})."


def _unlike(sets: Mapping[str, Rows]) -> list[str]:
    """The sets that have next to nothing in common with the reference; what else is said of them tells little."""
    told = []
    for name, rows in sets.items():
        scores = {metric: float(row["value"]) for metric, row in rows.items() if row.get("value") is not None}
        floor = {metric: float(row["floor"]) for metric, row in rows.items() if row.get("floor") is not None}
        if why := why_untrained(scores, floor):
            told.append(f"{name} are nothing like the reference ({why}): of no model yet, or of another kind of image.")
    return told


def _lacks(rows: Rows) -> list[str]:
    told = []
    for metric, what in _LACKS.items():
        value, floor = _value(rows, metric), _value(rows, metric, "floor")
        if value is not None and floor is not None and value < _LESS * floor:
            told.append(f"{what}: {metric} {value:.2f}, of fresh real images {floor:.2f}.")
    return told


def _copies(evaluation: Evaluation, sets: Mapping[str, Rows]) -> list[str]:
    if evaluation.train is None:
        return ["Whether they copy training images is not known without those."]
    told = []
    for name, rows in sets.items():
        share, floor = _value(rows, "replication"), _value(rows, "replication", "floor")
        if share is not None:
            fresh = "" if floor is None else f" (of fresh real images {floor:.0%})"
            copies = "copy" if share > COPIER else "do not copy"
            told.append(f"{name} {copies}: {share:.0%} repeat a training image{fresh}.")
    return told


def _nearest_by_ratio(sets: Mapping[str, Rows]) -> str:
    """The same of sets of unequal size, whose distances cannot be compared: fewer images give larger ones."""
    ratios = {name: value for name, rows in sets.items() if (value := _value(rows, FDR)) is not None}
    if not ratios:
        return "Which set is the nearest cannot be told: they differ in size, and fewer images give larger distances."
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in sorted(ratios.items(), key=lambda each: each[1]))
    best = min(ratios, key=lambda name: ratios[name])
    return f"{best} is the nearest to the reference for its size: FDr {told}; with sets of equal size it could be sure."


def _nearest(sets: Mapping[str, Rows]) -> str:
    """Which set is the nearest, and whether the intervals of the differences from the first one say so."""
    first = next(iter(sets))
    metric = distance_in(sets[first])
    distances = {name: _value(rows, metric) for name, rows in sets.items()}
    known = {name: value for name, value in distances.items() if value is not None}
    best = min(known, key=lambda name: known[name])
    told = f"{best} is the nearest to the reference: {metric} {known[best]:.3g}"
    if best != first:
        high = _value(sets[best], metric, "difference_high")
        sure = high is not None and high < 0
        return f"{told}, {first} {known[first]:.3g}; the difference is {'sure' if sure else 'not sure'}."
    lows = {name: _value(sets[name], metric, "difference_low") for name in known if name != first}
    open_ = [name for name, low in lows.items() if low is None or low <= 0]
    return (
        f"{told}; surely nearer than every other set."
        if not open_
        else f"{told}; not surely nearer than {', '.join(open_)}."
    )
