"""What is known of a denoiser that no recipe describes, and how it is told from others."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import Denoiser
from nomadiff.errors import UsageError
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import Facts

__all__ = ["DenoiserFacts", "fingerprint"]

_LEVELS = 3  # noise levels at which a denoiser is asked who it is


@dataclass(frozen=True)
class DenoiserFacts(Facts):
    """What is known of a denoiser without a recipe; see :class:`~nomadiff.training.config.Facts`.

    Attributes:
        method: what tables and manifests call it.
        drawn_shape: ``(C, S, S)`` of one image.
        sampler: how to sample it unless told otherwise; its range of noise levels is the denoiser's.
        source_names, sources, classes, latents, class_names, class_counts: as in a recipe.
    """

    method: str
    drawn_shape: tuple[int, int, int]
    sampler: SamplerConfig
    source_names: tuple[str, ...] = ("real",)
    sources: int = 0
    classes: int = 0
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] = ()
    class_counts: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, S, S)`` of one image."""
        return self.drawn_shape

    @classmethod
    def of(
        cls,
        method: str,
        shape: tuple[int, int, int],
        sigma: tuple[float, float],
        sources: Sequence[str],
        classes: int | Sequence[str],
    ) -> DenoiserFacts:
        """From what :meth:`nomadiff.models.model.Model.from_denoiser` is told.

        Raises:
            UsageError: names that are not different, or no such range of noise levels.
        """
        names = () if isinstance(classes, int) else tuple(classes)
        count = classes if isinstance(classes, int) else len(names)
        if count < 0 or len(set(names)) < len(names) or len(set(sources)) < len(sources):
            raise UsageError("sources and classes need names that differ")
        sampler = SamplerConfig(sigma_min=sigma[0], sigma_max=sigma[1])
        (channels, height, width), known = shape, tuple(sources) or ("real",)
        return cls(method, (channels, height, width), sampler, known, len(sources), count, class_names=names)


@torch.no_grad()
def fingerprint(denoiser: Denoiser, known: Facts, device: torch.device) -> str:
    """SHA-256 of what a denoiser makes of fixed noise at a few noise levels, on this machine: 64 hexadecimal digits.

    Raises:
        UsageError: it is no denoiser: it fails, or gives something else than float32 of the shape it was given.
    """
    condition = {"source": 0} if known.sources else {}
    condition |= {"class_label": 0} if known.classes else {}
    low, high = known.sampler.sigma_min, known.sampler.sigma_max
    noise = SampleNoise(0, [0, 1]).normal(known.shape).to(device)
    digest = hashlib.sha256()
    for index in range(_LEVELS):
        sigma = math.exp(math.log(low) + (math.log(high) - math.log(low)) * index / (_LEVELS - 1))
        try:
            estimate = denoiser(noise * sigma, torch.full((2,), sigma, device=device), **condition)
        except Exception as error:
            asked = "".join(f", {name}=0" for name in condition)
            raise UsageError(
                f"this denoiser fails when it is called as D(x, sigma{asked}) with x (2, "
                f"{', '.join(map(str, known.shape))}) and sigma (2,): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(estimate, torch.Tensor) or estimate.dtype != torch.float32 or estimate.shape != noise.shape:
            kind = type(estimate).__name__
            got = f"{estimate.dtype} {tuple(estimate.shape)}" if isinstance(estimate, torch.Tensor) else f"a {kind}"
            raise UsageError(f"a denoiser gives float32 of the shape of x, {tuple(noise.shape)}; this one gave {got}")
        digest.update(estimate.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
