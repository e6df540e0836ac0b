"""An improvement in parts that several processes do side by side: the copy, and the scores that choose.

============= =========================================================================
``copy``      own samples and fine-tuning
``search-0``  the base on the noise of the search
``search-2``  the weight of the second snapshot
``fresh-1``   the base on the first set of fresh noise
``confirm-1`` the chosen candidate on that set, compared with the base
============= =========================================================================

What a part has scored lies in a file of its own; :func:`take_parts` gives it to the improvement, for which it is as if
it had been killed after these scores. So the result is that of one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nomadiff.errors import DataError
from nomadiff.files import write_text
from nomadiff.improve.improve import Task
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import Chooser
from nomadiff.tables import Table, read_table
from nomadiff.training.run_folder import load_tensors, save_tensors

__all__ = ["COPY", "do_part", "parts_of", "take_parts"]

COPY = "copy"
_DEPENDS = ("base_sha256", "auxiliary", "scoring")  # what scores depend on


def parts_of(improvement: Improvement, *, scored: bool) -> dict[str, tuple[str, ...]]:
    """The parts of one copy's improvement, each with those that it comes after, in the order of one process."""
    if not scored:
        return {COPY: ()}
    searches = [f"search-{index}" for index in range(improvement.snapshots + 1)]
    fresh = [f"fresh-{index + 1}" for index in range(improvement.confirmations)]
    confirmed = [f"confirm-{index + 1}" for index in range(improvement.confirmations)]
    return {
        COPY: (),
        **{name: (COPY,) if number else () for number, name in enumerate(searches)},
        **dict.fromkeys(fresh, ()),
        **dict.fromkeys(confirmed, (*searches, *fresh)),
    }


def do_part(task: Task, name: str, folder: Path, prefix: str = "") -> None:
    """Do a part, or what is not done of it, once those are done that it comes after.

    Args:
        task: the improvement.
        name: one of :func:`parts_of`.
        folder: where parts leave their scores.
        prefix: what their files begin with.
    """
    if name == COPY:
        with task.copy.held():
            task.prepare()
        return
    improvement, depends = task.improvement, _depends(task)
    parts = list(parts_of(improvement, scored=True))
    path = _scores(folder, prefix + name)
    others = [_scores(folder, prefix + part) for part in parts if part != name]
    known = _gathered([task.copy.out / "improve.json", *others], depends)
    mine = _gathered([path], depends)
    meta = {**depends, "confirmation": [*known.meta["confirmation"], *mine.meta["confirmation"]]}
    table = Table([*known.rows, *mine.rows], meta)

    def save() -> None:
        pairs = table.meta["confirmation"][len(known.meta["confirmation"]) :]
        own = Table(table.rows[len(known.rows) :], {**depends, "confirmation": pairs})
        write_text(path, own.to_json())

    chooser = task.chooser_of(table, save)
    what, _, number = name.partition("-")
    index = int(number)
    if what == "search" and index == 0:
        chooser.search_base()
    elif what == "search":
        chooser.search_weight(task.budgets[index - 1])
    elif what == "fresh":
        chooser.fresh_base(index - 1)
        features, classes = chooser.read_of_base(index - 1)
        save_tensors(_read(folder, prefix + name), {"features": features, **_named(classes)}, depends)
    else:
        _know_bases(chooser, improvement.confirmations, folder, prefix, depends)
        budget, weight = chooser.search(task.budgets)  # of scores that are known
        chooser.fresh_pair(budget, weight, index - 1)
    save()


def take_parts(task: Task, folder: Path, prefix: str = "") -> None:
    """Add what parts have scored to the table of an improvement, as far as it is not there."""
    if task.reference is None:
        return
    paths = [_scores(folder, prefix + part) for part in parts_of(task.improvement, scored=True)]
    found = _gathered(paths, _depends(task))
    known = {_key(row) for row in task.table.rows}
    task.table.rows += [row for row in found.rows if _key(row) not in known]
    pairs = task.table.meta.setdefault("confirmation", [])
    pairs += [pair for pair in found.meta["confirmation"] if pair not in pairs]


def _depends(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = {**task.table.meta, "scoring": task.scoring()}
    found: dict[str, Any] = json.loads(json.dumps({name: values[name] for name in _DEPENDS}))
    return found


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("space", "weight", "budget", "seed", "noise"))


def _scores(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _read(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _named(classes: Any) -> dict[str, Any]:
    return {} if classes is None else {"classes": classes}


def _gathered(paths: Iterable[Path], depends: dict[str, Any]) -> Table:
    """The scores in tables that depend on the same; none of a table that is not there."""
    table = Table(meta={"confirmation": []})
    for path in paths:
        try:
            found = read_table(path)
        except DataError:
            continue
        if {name: found.meta.get(name) for name in _DEPENDS} == depends:
            table.rows += found.rows
            table.meta["confirmation"] += found.meta.get("confirmation", [])
    return table


def _know_bases(chooser: Chooser, sets: int, folder: Path, prefix: str, depends: dict[str, Any]) -> None:
    """What was read of the base's samples; sets that are not there are drawn again."""
    for index in range(sets):
        try:
            tensors, about = load_tensors(_read(folder, f"{prefix}fresh-{index + 1}"))
        except DataError:
            continue
        if about == depends:
            chooser.know_base(index, (tensors["features"], tensors.get("classes")))
