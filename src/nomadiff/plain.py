"""Plain values from JSON files: parsed, and checked against the dataclass that they fill.

One reader for every file that nomadiff writes and reads again. The result is a value of the declared type, or an error
of one line that names the field.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from nomadiff.errors import DataError, NomadiffError
from nomadiff.safe_pickle import printable

__all__ = ["differences", "from_plain", "parse_json", "plain_settings", "with_tuples"]

LONGEST_JSON = 256 << 20  # bytes; a journal of a large run has a few million
_LARGEST_INTEGER = 1 << 63
_LONGEST_VALUES = 60  # characters of two values that a line of their differences shows

T = TypeVar("T")


def parse_json(text: str | bytes, where: str, kind: type | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: the text, or its UTF-8 bytes.
        where: what to call it in messages.
        kind: ``dict`` or ``list``, if it must be one.

    Raises:
        DataError: it is no JSON, nested too deeply, or of another kind.
    """
    if len(text) > LONGEST_JSON:
        raise DataError(f"{where}: {len(text):,} bytes, far more than such a file has")
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON (line {error.lineno}: {error.msg})") from error
    except RecursionError as error:
        raise DataError(f"{where}: not valid JSON (nested too deeply)") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{where}: not valid JSON ({printable(str(error))})") from error
    if kind is not None and type(value) is not kind:
        raise DataError(f"{where}: expected {'a list' if kind is list else 'a table'}, got {printable(value)}")
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where two tables of plain values differ, for people: ``budget: 100 -> 200, images``; empty if nowhere.

    Tables in them are gone into (``training.budget``), and values too long for a line are left out.
    """
    return ", ".join(_differences(old, new, ""))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            told = f"{prefix}{key}: {before} -> {after}"
            yield told if len(f"{before}{after}") < _LONGEST_VALUES else f"{prefix}{key}"


def from_plain(cls: type[T], values: Any, where: str) -> T:
    """An instance of a dataclass from the plain values it was written as.

    Fields may be ``int``, ``float``, ``str``, ``bool``, tuples, lists and tables of these, other dataclasses, None, and
    unions of them. Lists become tuples where the field is one; numbers must be finite.

    Args:
        cls: the dataclass.
        values: what the file holds.
        where: what it describes, for messages.

    Raises:
        DataError: a field is missing, unknown, or of another type; or the class refuses its values.
    """
    if type(values) is not dict:
        raise DataError(f"{where}: expected a table of settings, got {printable(values)}")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # a dataclass, by contract
    if unknown := sorted(printable(name) for name in values if name not in known):
        raise DataError(f"{where}: unknown setting {', '.join(unknown[:8])}; known: {', '.join(known)}")
    required = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(required - values.keys()):
        raise DataError(f"{where}: setting {', '.join(missing)} is missing")
    hints = get_type_hints(cls)
    found = {name: _checked(value, hints[name], f"{where}: setting {name}") for name, value in values.items()}
    try:
        return cls(**found)
    except NomadiffError as error:
        raise DataError(f"{where}: {printable(str(error), 300)}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise DataError(f"{where}: settings that do not fit together ({printable(str(error))})") from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint`` wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        choices = [argument for argument in arguments if argument is not NoneType]
        for choice in choices[:-1]:
            try:
                return _checked(value, choice, where)
            except DataError:
                continue
        return _checked(value, choices[-1], where)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return from_plain(hint, value, where)  # type: ignore[arg-type]  # never an instance
    if origin in (tuple, list):
        return _checked_list(value, origin, arguments, where)
    if origin is dict:
        if type(value) is not dict:
            raise DataError(f"{where} must be a table, got {printable(value)}")
        return {_checked(key, arguments[0], where): _checked(item, arguments[1], where) for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        if abs(value) < _LARGEST_INTEGER or (type(value) is float and math.isfinite(value)):
            return value
        raise DataError(f"{where} must be a finite number, got {printable(value)}")
    if type(value) is not hint or (hint is int and abs(value) >= _LARGEST_INTEGER):
        words = {int: "an integer", float: "a number", str: "a text", bool: "true or false", dict: "a table"}
        raise DataError(f"{where} must be {words.get(hint, hint)}, got {printable(value)}")
    if hint is str and (any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value)):
        raise DataError(f"{where} must be a text without control characters, got {printable(value)}")
    return value


def _checked_list(value: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if type(value) not in (list, tuple):
        raise DataError(f"{where} must be a list, got {printable(value)}")
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise DataError(f"{where} must be a list of {len(arguments)}, got {len(value)}")
        return tuple(_checked(item, kind, where) for item, kind in zip(value, arguments))
    return origin(_checked(item, arguments[0], where) for item in value)


def plain_settings(study: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of a ``study`` as they are written for other processes; None where some are objects in memory."""
    try:
        return {"study": study, **json.loads(json.dumps(dict(values)))}
    except TypeError:
        return None


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were before they were written: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
