"""SIMS, Neon and relatives: a model improved by steering away from a copy of itself."""

from nomadiff.lazy import callable_package, lazy_names

__getattr__, __dir__ = lazy_names(__name__)
callable_package(__name__)
