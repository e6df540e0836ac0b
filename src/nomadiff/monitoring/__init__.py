"""Trainings that are looked at while they run."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
