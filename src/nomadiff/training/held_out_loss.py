"""The training loss at fixed noise: the same levels and draws every time, so that its changes are the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.processes import Processes
from nomadiff.seeding import mixed_seed
from nomadiff.training.config import RunConfig
from nomadiff.training.loss import edm_loss
from nomadiff.training.noise_bands import BANDS, band_levels

__all__ = ["FixedImages", "fixed_noise_losses"]

_STREAM = 4  # of a run's seed: keeps this noise apart from the training's
_TOGETHER = 16  # images to a pass, each at one level of every band


@dataclass(frozen=True)
class FixedImages:
    """Images to measure the loss on.

    Attributes:
        images: as a source stores them, ``(N, ...)``.
        source: label of their source.
        labels: int64 ``(N,)`` class labels as the model numbers them, or None.
    """

    images: Tensor
    source: int
    labels: Tensor | None


@torch.no_grad()
def fixed_noise_losses(
    denoiser: EDMDenoiser, data: FixedImages, mix: SourceMix, config: RunConfig, processes: Processes
) -> Tensor:
    """The loss of every image in every band of noise levels, weighted as in training (Karras et al. 2022).

    Image ``i`` has the same noise in whatever set it is image ``i`` of, at the lower level of each band if ``i`` is
    even and at the higher one if it is odd. Nothing is augmented and no label hidden.

    Args:
        denoiser: in evaluation mode.
        data: the images.
        mix: what makes network inputs of them.
        config: the run's recipe.
        processes: who shares the work.

    Returns:
        float32 ``(N, bands)`` on the CPU, the same in every process.
    """
    device, options = processes.device, config.training
    levels = torch.tensor(band_levels(options.p_mean, options.p_std), device=device)
    losses = torch.zeros(len(data.images), BANDS, device=device)
    generator = torch.Generator(device)
    for start in range(processes.rank * _TOGETHER, len(data.images), processes.count * _TOGETHER):
        generator.manual_seed(mixed_seed(options.seed, _STREAM, start))
        part = slice(start, min(start + _TOGETHER, len(data.images)))
        clean = mix.clean(data.images[part].to(device), generator)
        noise = torch.randn(_TOGETHER, BANDS, *clean.shape[1:], generator=generator, device=device)[: len(clean)]
        sigma = levels[:, torch.arange(part.start, part.stop, device=device) % 2].T  # (images, bands)
        condition: dict[str, Any] = {}
        if config.sources:
            condition["source"] = torch.full((len(clean) * BANDS,), data.source, device=device)
        if config.classes:
            assert data.labels is not None
            condition["class_label"] = data.labels[part].to(device).repeat_interleave(BANDS)
        repeated = clean.repeat_interleave(BANDS, 0)
        made = edm_loss(
            denoiser, repeated, sigma.flatten(), noise.flatten(0, 1), sigma_data=config.sigma_data, **condition
        )
        losses[part] = made.flatten(1).mean(1).view(len(clean), BANDS)
    return processes.total(losses).cpu()
