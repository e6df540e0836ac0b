"""Methods by name, for command lines and configuration files."""

from __future__ import annotations

from nomadiff.errors import UsageError
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.methods.method import Method
from nomadiff.methods.sda import SDA

__all__ = ["METHODS", "method_named"]

METHODS: dict[str, type[Method]] = {method.name: method for method in (DM, SDA, CASD)}


def method_named(name: str) -> type[Method]:
    """Look up a method class.

    Raises:
        UsageError: there is none of this name; the message lists them.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}': choose one of {', '.join(METHODS)}")
    return METHODS[name]
