"""Trained models: a denoiser, what is known of it, and how to draw from it."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
