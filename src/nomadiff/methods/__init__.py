"""Algorithms `G = A(D)` and the trained models they return."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
