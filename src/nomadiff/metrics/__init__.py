"""Detectors and what is measured on their features."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
