"""Moving the composition of what a model draws to a target."""

from nomadiff.lazy import callable_package, lazy_names

__getattr__, __dir__ = lazy_names(__name__)
callable_package(__name__)
