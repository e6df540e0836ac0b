"""Methods by name, for command lines and configuration files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nomadiff.errors import UsageError
from nomadiff.methods.autoguidance import Autoguidance
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided
from nomadiff.methods.guided import BASES, GuidedMethod
from nomadiff.methods.method import Method
from nomadiff.methods.sims import SIMS, Neon
from nomadiff.methods.source_guidance import SourceGuided

__all__ = ["METHODS", "method_named"]

METHODS: dict[str, type[Method]] = {
    **BASES,
    **{method.name: method for method in (SIMS, Neon, SourceGuided, Autoguidance, DiscriminatorGuided)},
}


def method_named(name: str) -> Callable[..., Method]:
    """Look up a method: ``sims``, or ``casd+sims`` for one that guides a base of another method than dm.

    Returns:
        Its class, or the class with its base given.

    Raises:
        UsageError: there is none of this name; the message lists them.
    """
    base, plus, guide = name.partition("+")
    if plus and base in BASES and issubclass(METHODS.get(guide, Method), GuidedMethod):
        return partial(METHODS[guide], base=base)
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}': choose one of {', '.join(METHODS)}, or casd+sims and the like")
    return METHODS[name]
