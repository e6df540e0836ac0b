"""What a verb answers: a value, words about it, and what to do next; printed as text, or as JSON with ``--json``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomadiff.tables import Table

__all__ = [
    "WITHOUT_PARTS",
    "Answer",
    "command_line",
    "default_table",
    "facts",
    "given_words",
    "json_is_asked",
    "remember",
    "scoring_command",
]

# verbs that use no part of a user's own
WITHOUT_PARTS = ("demo", "suggest", "reproduce", "encode", "verdict", "table", "status", "metrics", "import", "lora")

_WIDTH = 8  # of the names of files, with their colon

_given: list[str] = []
_plugins: list[str] = []
_json = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a verb found or made.

    Attributes:
        text: what there is to read, in lines.
        value: the same for a program: a table, or plain values.
        files: what was written, by what it is.
        verdict: the answer to the user's question, in sentences; it comes last, before what to do.
        next: words of the command to go on with, after ``nomadiff``; names in capitals are for the user to fill in.
    """

    text: str = ""
    value: Table | Mapping[str, Any] | None = None
    files: Mapping[str, Path | str] = field(default_factory=dict)
    verdict: Sequence[str] = ()
    next: Sequence[str | Path] = ()

    @property
    def command(self) -> str:
        """The command to go on with, with the plugins of this one; empty where there is none."""
        words = [*map(str, self.next)]
        if words and words[0] not in WITHOUT_PARTS:
            words = _with_plugins(words)
        return shlex.join(["nomadiff", *words]) if words else ""

    def to_text(self) -> str:
        """As lines to read."""
        width = max([_WIDTH, *(len(name) + 2 for name in self.files)])
        lines = [self.text] if self.text else []
        lines += [f"{name + ':':<{width}} {path}" for name, path in self.files.items()]
        lines += self.verdict
        lines += [f"{'next:':<{width}} {self.command}"] if self.next else []
        return "\n".join(lines)

    def to_json(self) -> str:
        """As one JSON object: the value's own fields, and ``files``, ``verdict`` and ``next`` where there are some."""
        content: dict[str, Any] = {}
        if self.value is not None:
            content |= self.value if isinstance(self.value, Mapping) else json.loads(self.value.to_json())
        if self.files:
            content["files"] = {name: str(path) for name, path in self.files.items()}
        if self.verdict:
            content["verdict"] = [sentence for sentence in self.verdict if sentence]
        if self.next:
            content["next"] = self.command
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)


def facts(text: str) -> dict[str, Any]:
    """Lines ``name:   value`` as a mapping; a name that comes several times has a list, and other lines are notes."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        fact = re.fullmatch(r"(\w[^:]{0,40}):\s+(.*)", line)
        name, value = fact.groups() if fact else ("notes", line.strip())
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def remember(words: Sequence[str], *, as_json: bool, plugins: Sequence[str] = ()) -> None:
    """Keep the command as it was given, for reports and for :func:`given_words`; its plugins apart."""
    global _json
    _given[:], _plugins[:], _json = words, plugins, as_json


def given_words() -> list[str]:
    """The command as it was given, after ``nomadiff``, without its plugins; they go with whatever comes next."""
    return list(_given)


def command_line() -> str:
    """The command, for reports."""
    return shlex.join(["nomadiff", *_with_plugins(_given)])


def _with_plugins(words: Sequence[str]) -> list[str]:
    return [*words, *(word for module in _plugins if module not in words for word in ("--plugin", module))]


def scoring_command() -> str:
    """The command but for ``--out``: what a table of scores says it was made by."""
    words, rest = [], iter(_given)
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith("--out="):
            words.append(word)
    return shlex.join(["nomadiff", *_with_plugins(words)])


def default_table() -> Path:
    """Where a table of scores goes that nobody has named: ``metrics.json``, if it is free or this command's own.

    Raises:
        UsageError: it is there, and holds something else.
    """
    from nomadiff.errors import DataError, UsageError
    from nomadiff.safe_pickle import printable
    from nomadiff.tables import read_table

    path = Path("metrics.json")
    if not path.exists():
        return path
    try:
        found = read_table(path).meta.get("command")
    except (DataError, AttributeError):  # no table of ours
        found = None
    if found != scoring_command():
        by = f" ({printable(str(found), 200)})" if found else ""
        raise UsageError(f"{path} holds what another command found{by}: pass --out with another name, or with this one")
    return path


def json_is_asked() -> bool:
    """Whether the answer goes to standard output as JSON."""
    return _json
