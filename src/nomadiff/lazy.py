"""Names of a package that are imported when they are first used: ``from nomadiff.guidance import Extrapolation``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

__all__ = ["callable_package", "lazy_names"]


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that has every name of its modules' ``__all__``.

    A module that is called like one of its names comes first, as in every package.

    Args:
        package: full name of the package.
    """

    def modules() -> list[str]:
        return [found.name for found in iter_modules(sys.modules[package].__path__)]

    def find(name: str) -> Any:
        if not name.startswith("_") and name not in (known := modules()):
            for module in known:
                found = import_module(f"{package}.{module}")
                if name in getattr(found, "__all__", ()):
                    value = getattr(found, name)
                    setattr(sys.modules[package], name, value)
                    return value
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    def names() -> list[str]:
        known = modules()
        found = (import_module(f"{package}.{each}") for each in known)
        return sorted({*known, *(name for each in found for name in getattr(each, "__all__", ()))})

    return find, names


def callable_package(package: str) -> None:
    """Let a package be called as the function of its name in its module of its name: ``nd.improve(...)``.

    The package and the verb have one name, and Python puts a package there as soon as it is imported.

    Args:
        package: full name of the package.
    """
    verb = package.rpartition(".")[2]

    def function() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(import_module(f"{package}.{verb}"), verb)
        return found

    class CallablePackage(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return function()(*arguments, **options)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(function())

    sys.modules[package].__class__ = CallablePackage
