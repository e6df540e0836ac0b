"""Plots, image grids and the self-contained HTML report."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
