"""Every table and figure of the papers as a recipe."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
