"""DM: the baseline that leaves synthetic data out."""

from __future__ import annotations

from nomadiff.data.source_mix import SourceMix
from nomadiff.methods.method import Method

__all__ = ["DM"]


class DM(Method):
    """Diffusion model trained on the real images only (CASD paper, section 4.1). Synthetic sources are left unused."""

    name = "dm"
    description = "Diffusion model trained on the real images only."
    uses_synthetic = False

    def training_mix(self, mix: SourceMix) -> SourceMix:
        """The real source alone."""
        return SourceMix(mix.sources[0])
