"""Parts by name: the library's own, and a user's as ``module:qualname``.

A file may name a part, and may come from anywhere. So a name never imports a module: only what the user imported
(``import``, or ``--plugin``) is looked into, and nothing found there is called before it passed the check of its kind.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from nomadiff.errors import UsageError
from nomadiff.safe_pickle import printable

__all__ = ["Registry", "import_plugin", "meant", "modules_of_parts"]

T = TypeVar("T")

_modules: dict[str, None] = {}  # where parts that were used come from, and plugins, in order


class Registry(dict[str, T]):
    """The parts of one kind by their short names.

    ``parts`` are the library's own; ``flaw`` says in a few words why an object is no such part, or nothing.
    """

    def __init__(self, kind: str, flaw: Callable[[Any], str], parts: Mapping[str, T]) -> None:
        super().__init__(parts)
        self.kind, self._flaw, self._own = kind, flaw, dict(parts)

    def register(self, name: str, part: T) -> None:
        """Give a part a short name; recipes still name it ``module:qualname``. Raises UsageError: no part, or taken."""
        if name in self._own or not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"{self.kind} '{printable(name)}': taken, or no name of letters, digits and .-_")
        self[name] = self._checked(part, name)

    def find(self, part: str | T) -> T:
        """The part of this name: a short one or ``module:qualname``. A part itself is checked and returned.

        Raises UsageError: there is none, it is no such part, or its module was not imported.
        """
        if not isinstance(part, str):
            return self._checked(part, getattr(part, "__qualname__", type(part).__name__))
        if part in self:
            return self[part]
        module, colon, path = part.partition(":")
        if not colon:
            near = meant(part, self)
            raise UsageError(f"unknown {self.kind} '{printable(part)}'{near}: choose one of {', '.join(self)}")
        if module not in sys.modules:
            raise UsageError(
                f"{self.kind} '{printable(part)}' is in a module that is not imported: if you trust it, pass "
                f"--plugin {printable(module)} (in Python: import {printable(module)})"
            )
        found = _attribute(module, path)
        if found is None:
            near = meant(path, vars(sys.modules[module]))
            raise UsageError(f"module {printable(module)} has no {self.kind} '{printable(path)}'{near}")
        self._checked(found, part)
        _modules.setdefault(module)
        return cast(T, found)

    def name_of(self, part: str | T) -> str:
        """The name that a recipe gives a part: short for the library's own, else ``module:qualname``.

        Raises UsageError as :meth:`find`, and where no recipe could name it: it is defined inside a function, say.
        """
        found: Any = self.find(part)
        if short := next((name for name, own in self._own.items() if own is found), ""):
            return short
        module, path = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
        module = "__main__" if module == "__mp_main__" else module  # a worker's name of the script that started it
        if module is None or _attribute(module, path) is not found:
            path = path or type(found).__name__
            raise UsageError(f"{self.kind} {path}: no recipe can name it; define it at the top of a module")
        _modules.setdefault(module)
        return f"{module}:{path}"

    def _checked(self, part: Any, name: str) -> T:
        if reason := self._flaw(part):
            raise UsageError(f"{printable(name)} is no {self.kind}: {reason}")
        return cast(T, part)


def meant(name: str, known: Iterable[str]) -> str:
    """``(did you mean 'this'?)`` where some known name is near, else an empty text."""
    return "".join(f" (did you mean '{near}'?)" for near in get_close_matches(name, known, 1))


def _attribute(module: str, path: str) -> Any:
    """What a name within an imported module means; None if nothing. Read from dictionaries: no code runs."""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found


def import_plugin(module: str) -> None:
    """Import a module of parts, from the working folder or installed. Raises UsageError: there is none, or it fails."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
        raise UsageError(f"--plugin takes a module's name such as my_parts or my_package.parts, got '{module}'")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # an installed nomadiff does not look there by itself
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"--plugin {module}: no such module, neither installed nor in {os.getcwd()}") from error
        raise UsageError(f"--plugin {module}: its import fails ({type(error).__name__}: {error})") from error
    _modules.setdefault(module)


def modules_of_parts() -> tuple[str, ...]:
    """The modules that a process needs which is to use the same parts: plugins, and those of parts used so far."""
    return tuple(name for name in _modules if name != "__main__")
