"""One file a verb: what the command line does, as functions."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
