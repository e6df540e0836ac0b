"""Studies that any number of processes work on: their jobs, how far they are, workers of a scheduler."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
