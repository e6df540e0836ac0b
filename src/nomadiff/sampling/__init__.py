"""Noise levels, solvers, and drawing a sample set."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
