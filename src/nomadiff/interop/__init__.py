"""Import of weights from other tools, safely; export in the formats that they read."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
