"""What many tests need, made small: images of noise, sources of them, a preset that trains in a second, a stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.networks.config import NetworkConfig
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.loop import _Training
from nomadiff.training.presets import PRESETS, Preset
from nomadiff.training.settings import TrainingConfig

__all__ = ["few_steps", "noise_images", "noise_source", "stopped_at", "tiny_preset"]


def noise_images(count: int = 40, seed: int = 0, channels: int = 1, side: int = 8) -> Tensor:
    """uint8 ``(count, channels, side, side)``, every value as likely."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def noise_source(name: str, seed: int = 0, count: int = 40, *, labels: bool = True, channels: int = 1) -> ImageSource:
    """A source of :func:`noise_images`; image i is of the class i % 3, if it has labels."""
    classes = torch.arange(count) % 3 if labels else None
    return ImageSource(name, noise_images(count, seed, channels), classes, {"name": name})


def tiny_preset(steps: int = 3, network: dict[str, Any] | None = None, **training: Any) -> Preset:
    """A network of a few thousand weights for 8 x 8 images, with attention and labels, and few solver steps."""
    parts = NetworkConfig("ddpmpp", 8, 1, 8, (1, 2), 1, (4,), **(network or {}))
    options = {"budget": 64, "batch": 16, "warmup": 0, **training}
    return Preset(parts, TrainingConfig(**options), SamplerConfig(steps=steps), 0.5, "test")


@contextmanager
def few_steps() -> Iterator[None]:
    """Within the block, and this process, the preset digits draws in 3 steps, not in 18."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "digits", replace(PRESETS["digits"], sampler=SamplerConfig(steps=3)))
        yield


@contextmanager
def stopped_at(images_seen: int) -> Iterator[None]:
    """Interrupt the training within the block, which must reach it, before the step that begins at so many images."""
    step = _Training._step

    def failing(self: _Training, meter: Any) -> None:
        if self.images_seen == images_seen:
            raise KeyboardInterrupt
        step(self, meter)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Training, "_step", failing)
        yield
