"""Images, where they came from, and how they reach a batch."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
