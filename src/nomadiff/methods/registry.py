"""Methods by name, for command lines and configuration files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from nomadiff.errors import UsageError
from nomadiff.methods.ambient import Ambient
from nomadiff.methods.autoguidance import Autoguidance
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided
from nomadiff.methods.filtered import Filtered
from nomadiff.methods.guided import BASES, GuidedMethod
from nomadiff.methods.method import Method
from nomadiff.methods.sims import SIMS, Neon
from nomadiff.methods.source_guidance import SourceGuided
from nomadiff.methods.weighted import Weighted, WeightedCASD
from nomadiff.registry import Registry, meant

__all__ = ["METHODS", "method_named"]

_OWN = {
    **BASES,
    **{method.name: method for method in (Ambient, Weighted, WeightedCASD, Filtered)},
    **{method.name: method for method in (SIMS, Neon, SourceGuided, Autoguidance, DiscriminatorGuided)},
}


def _flaw(part: Any) -> str:
    if not isinstance(part, type) or not issubclass(part, Method):
        return "it must be a subclass of nomadiff's Method"
    name = getattr(part, "name", "")
    if _OWN.get(name, part) is not part:
        return f"its name '{name}' is taken: give it one of its own"
    return "" if re.fullmatch(r"[\w.-]+", name) else "it needs a name of letters, digits and .-_"


METHODS: Registry[type[Method]] = Registry("method", _flaw, _OWN)


def method_named(name: str | type[Method]) -> Callable[..., Method]:
    """Look up a method: ``sims``, or ``casd+sims`` for one that guides a base of another method than dm.

    Args:
        name: its name, ``module:qualname`` of one of your own, or its class.

    Returns:
        Its class, or the class with its base given.

    Raises:
        UsageError: there is none of this name, it is no method, or its module was not imported.
    """
    if isinstance(name, str):
        base, plus, guide = name.partition("+")
        known = guide in METHODS or ":" in guide
        if plus and base in BASES and known and issubclass(found := METHODS.find(guide), GuidedMethod):
            return partial(found, base=base)
        if name not in METHODS and ":" not in name:
            known_names = f"{meant(name, METHODS)}: choose one of {', '.join(METHODS)}"
            raise UsageError(f"unknown method '{name}'{known_names}, or casd+sims and the like")
    return METHODS.find(name)
