"""No-MAD diffusion: train diffusion models with synthetic data, without harm.

    import nomadiff as nd

    real = nd.ImageSource.open("photos/", name="real", synthetic=False)
    made = nd.ImageSource.open("generated/", name="sdxl", synthetic=True)
    model = nd.CASD("small32", budget=5_000_000).fit(nd.SourceMix(real, [made]), "run/")
    images = model.sample(64, seed=0)  # uint8 (64, 3, 32, 32), of the real distribution

Names are imported when they are first used, so that ``import nomadiff`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nomadiff.version import __version__ as __version__

if TYPE_CHECKING:
    from nomadiff.data.mix_spec import MixSpec
    from nomadiff.data.sources import ImageSource, SourceMix
    from nomadiff.denoiser import BoundDenoiser, Denoiser, EDMDenoiser
    from nomadiff.errors import DataError, Interrupted, NomadiffError, UsageError
    from nomadiff.methods.casd import CASD
    from nomadiff.methods.dm import DM
    from nomadiff.methods.sda import SDA
    from nomadiff.metrics.evaluate import ReferenceSet, evaluate
    from nomadiff.models.model import Model
    from nomadiff.sampling.sampler import SamplerConfig
    from nomadiff.workflows.compare import Comparison, compare

_HOMES = {
    "nomadiff.data.mix_spec": ("MixSpec",),
    "nomadiff.data.sources": ("ImageSource", "SourceMix"),
    "nomadiff.denoiser": ("BoundDenoiser", "Denoiser", "EDMDenoiser"),
    "nomadiff.errors": ("DataError", "Interrupted", "NomadiffError", "UsageError"),
    "nomadiff.workflows.compare": ("Comparison", "compare"),
    "nomadiff.methods.casd": ("CASD",),
    "nomadiff.methods.dm": ("DM",),
    "nomadiff.models.model": ("Model",),
    "nomadiff.methods.sda": ("SDA",),
    "nomadiff.metrics.evaluate": ("ReferenceSet", "evaluate"),
    "nomadiff.sampling.sampler": ("SamplerConfig",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - the order a reader meets them
    "ImageSource",
    "SourceMix",
    "MixSpec",
    "DM",
    "SDA",
    "CASD",
    "Model",
    "SamplerConfig",
    "evaluate",
    "ReferenceSet",
    "Comparison",
    "compare",
    "Denoiser",
    "EDMDenoiser",
    "BoundDenoiser",
    "NomadiffError",
    "UsageError",
    "DataError",
    "Interrupted",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nomadiff' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
