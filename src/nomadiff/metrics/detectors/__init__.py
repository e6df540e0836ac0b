"""Detectors: fixed maps from images to features, one network a file."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
