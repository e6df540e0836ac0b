"""Denoisers made of denoisers: extrapolation, label guidance, gradients, perturbed attention, merged weights."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
