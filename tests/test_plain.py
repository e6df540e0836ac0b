"""JSON of any shape becomes the announced value, or one line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from nomadiff.errors import DataError, UsageError
from nomadiff.plain import differences, from_plain, parse_json


@dataclass(frozen=True)
class Inner:
    count: int = 1
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    sizes: tuple[int, ...]
    inner: Inner = field(default_factory=Inner)
    limits: tuple[float, float] | None = None
    table: dict[str, int] = field(default_factory=dict)
    anything: Any = None
    on: bool = False

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise UsageError("bad is no name")


GOOD: dict[str, Any] = {"name": "a", "sizes": [1, 2], "inner": {"count": 3}, "limits": [0, 1.5], "table": {"b": 1}}


def test_what_was_written_comes_back() -> None:
    assert from_plain(Outer, GOOD, "x") == Outer("a", (1, 2), Inner(3), (0, 1.5), {"b": 1})
    assert from_plain(Outer, {"name": "a", "sizes": [], "anything": [None]}, "x") == Outer("a", (), anything=[None])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 5}, "setting name must be a text, got 5"),
        ({"name": None}, "setting name must be a text"),
        ({"name": "a\0b"}, "without control characters"),
        ({"name": "a\ud800"}, "without control characters"),
        ({"name": "bad"}, "bad is no name"),
        ({"sizes": "12"}, "setting sizes must be a list"),
        ({"sizes": [1, True]}, "setting sizes must be an integer, got True"),
        ({"sizes": [1.5]}, "must be an integer"),
        ({"sizes": [10**30]}, "must be an integer"),
        ({"inner": [1]}, "setting inner: expected a table of settings"),
        ({"inner": {"count": "x"}}, "setting inner: setting count must be an integer"),
        ({"inner": {"cuont": 1}}, "setting inner: unknown setting cuont; known: count, share"),
        ({"inner": {"share": float("nan")}}, "setting share must be a finite number"),
        ({"inner": {"share": 10**400}}, "setting share must be a finite number"),
        ({"limits": [1]}, "a list of 2, got 1"),
        ({"limits": [1, "x"]}, "must be a finite number|must be a number"),
        ({"table": [1]}, "setting table must be a table"),
        ({"table": {"b": []}}, "setting table must be an integer"),
        ({"on": 1}, "setting on must be true or false"),
        ({"\x1b[2J\n": 1}, "unknown setting \\?\\[2J\\?; known: name"),
    ],
)
def test_everything_else_is_one_line_that_names_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        from_plain(Outer, {**GOOD, **change}, "x.json")
    assert str(caught.value).startswith("x.json: ") and str(caught.value).isprintable()


def test_a_field_may_be_missing_only_if_it_has_a_default() -> None:
    with pytest.raises(DataError, match="setting sizes is missing"):
        from_plain(Outer, {"name": "a"}, "x")
    for other in (None, [], "x", 5):
        with pytest.raises(DataError, match="expected a table of settings"):
            from_plain(Outer, other, "x")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        '{"a": -' + "1" * 10_000 + "}",
        "",
        "nul",
        b"\xff",
        b"\x00\x01",
        "{'a': 1}",
    ],
)
def test_texts_that_are_no_json_are_one_line(text: str | bytes) -> None:
    with pytest.raises(DataError, match=r"x\.json: (not valid JSON|cannot be read)") as caught:
        parse_json(text, "x.json")
    assert str(caught.value).isprintable()


def test_differences_name_what_changed_and_short_values() -> None:
    old = {"seed": 1, "training": {"budget": 64, "batch": 8}, "images": 40 * "a", "same": [1]}
    new = {"training": {"budget": 128, "batch": 8}, "images": 40 * "b", "same": [1]}
    assert differences(old, new) == "images, seed: 1 -> None, training.budget: 64 -> 128"
    assert differences(old, old) == differences({}, {}) == ""


def test_the_kind_of_the_whole_is_checked() -> None:
    assert parse_json("\ufeff{}".encode(), "x", dict) == {} and parse_json("5", "x") == 5
    for value, kind in (([], dict), (None, dict), ("a", list), ({}, list), (True, dict)):
        with pytest.raises(DataError, match="expected a (table|list)"):
            parse_json(json.dumps(value), "x", kind)
