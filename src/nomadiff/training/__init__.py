"""Loss, augmentation, EMA, run folders, presets and the training loop."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
