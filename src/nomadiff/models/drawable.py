"""What can be drawn from: a denoiser and what is known of it, without regard to where either came from."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import BoundDenoiser, Denoiser
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.guidance.guided import evaluations_of
from nomadiff.models.class_choice import class_weights, stored_labels
from nomadiff.models.inference import computing_in, drawing_precision, may_draw_in_half, networks_of
from nomadiff.networks.autoencoder import Autoencoder
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar, say
from nomadiff.sampling.sampler import SamplerConfig, draw, drawn_classes, to_uint8
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import Facts
from nomadiff.training.precision import AUTOCAST

__all__ = ["Drawable"]


class Drawable:
    """A denoiser and what is known of it: enough to draw from.

    Args:
        denoiser: the denoiser, on ``device``.
        known: what is known of it.
        device: where it computes.
    """

    def __init__(self, denoiser: Denoiser, known: Facts, device: torch.device) -> None:
        self.denoiser = denoiser
        self.known = known
        self.device = device
        self._fits = sys.maxsize  # images that fit into memory at once, as far as is known

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what is drawn: an image, or a latent."""
        return self.known.shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        if self.known.latents is None:
            return self.shape
        side = self.shape[1] * self.known.latents.factor
        return 3, side, side

    @property
    def draws_latents(self) -> bool:
        """Whether what the network draws has to be decoded to be an image."""
        return self.known.latents is not None or self.shape[0] not in (1, 3)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder of this model's latents, loaded on first use.

        Raises:
            UsageError: it is a model of images, or diffusers is not installed.
            DataError: it cannot be loaded, or is another one than the model was trained with.
        """
        space = _space_of(self.known)
        found = Autoencoder.load(space.vae, sha256=space.vae_sha256, device=self.device)
        if (found.channels, found.factor) != (space.channels, space.factor):
            raise DataError(
                f"{space.vae}: {found.channels} channels of {found.factor} pixels a side; this model's latents have "
                f"{space.channels} of {space.factor}"
            )
        return found

    def nfe(self, sampler: SamplerConfig | None = None) -> float:
        """Network evaluations for one image: the solver's calls, each counted by what it costs."""
        total = sum(evaluations_of(self.denoiser, sigma) for sigma in (sampler or self.known.sampler).called_levels())
        return int(total) if total == int(total) else round(total, 2)

    def source_index(self, source: int | str) -> int:
        """The label of a source given by name or number.

        Raises:
            UsageError: the model does not know it.
        """
        names = self.known.source_names
        if isinstance(source, str) and source in names:
            source = names.index(source)
        if not isinstance(source, int) or not 0 <= source < len(names):
            listed = ", ".join(f"{index} = {name}" for index, name in enumerate(names))
            raise UsageError(f"unknown source '{source}': this model knows {listed}")
        return source

    def sampling_denoiser(self, source: int | str = 0) -> Denoiser:
        """The denoiser to sample with: ``D(x, sigma)`` with the source fixed, to "real" unless asked otherwise.

        Raises:
            UsageError: the source is unknown, or a synthetic one is asked of a model without source labels.
        """
        index = self.source_index(source)
        if self.known.sources:
            return BoundDenoiser(self.denoiser, source=index)
        if index:
            raise UsageError(f"a {self.known.method} model has no source labels: it cannot draw source {source!r}")
        return self.denoiser

    def sample(self, count: int, seed: int = 0, **options: Any) -> Tensor:
        """Draw ``count`` images; image ``i`` depends on ``(seed, i)`` only.

        Args:
            count: number of images.
            seed: seed of the set.
            **options: as for :meth:`sample_batches`.

        Returns:
            uint8 ``(count, C, H, W)`` on the CPU.
        """
        batches = list(self.sample_batches(count, seed, **options))
        return torch.cat(batches) if batches else torch.empty((0, *self.image_shape), dtype=torch.uint8)

    def sample_batches(
        self,
        count: int,
        seed: int = 0,
        *,
        source: int | str = 0,
        class_label: int | str | None = None,
        classes: str | None = None,
        sampler: SamplerConfig | None = None,
        batch_size: int | None = None,
        precision: str = "auto",
        first: int = 0,
        processes: Processes | None = None,
        show: bool = False,
        decode: bool = True,
    ) -> Iterator[Tensor]:
        """Draw images a batch at a time, in order.

        Args:
            count: number of images.
            seed: seed of the set.
            first: index of the first of them within the set.
            source: name or label of the source to draw; the real one unless asked otherwise.
            class_label, classes: the one class to draw from a class-conditional model, or how often to draw which, see
                :func:`~nomadiff.models.class_choice.class_weights`; by default as the source's training images have
                them.
            sampler: solver and steps; None takes the recipe's.
            batch_size: images solved together in a process; None chooses by their size. Where a device's memory does
                not hold so many, fewer are.
            precision: what networks compute in: fp32, bf16, fp16, or auto: half precision if the model was trained in
                it and this machine is fast at it, see :func:`~nomadiff.models.inference.drawing_precision`. The
                solver's arithmetic is float64 in any case.
            processes: share the work among these; every process gets every image.
            show: show a progress bar.
            decode: make images of what a model of latents draws; False leaves it as it is.

        Yields:
            uint8 ``(b, C, H, W)`` on the CPU; without ``decode`` float32 raw latents, as data sets hold them.

        Raises:
            UsageError: unknown source, class or precision, or latents of an unknown autoencoder.
            DataError: the autoencoder cannot be loaded.
            NomadiffError: a single image does not fit into memory, or is not finite.
        """
        finish = self._decoded if decode else self._raw
        if decode and self.draws_latents:
            self.autoencoder  # noqa: B018 - loaded now: it may be missing, and sampling is expensive
        denoiser = self.sampling_denoiser(source)
        weights = class_weights(self.known, self.source_index(source), class_label=class_label, classes=classes)
        group = processes or Processes(0, 1, self.device)
        networks, chosen = networks_of(denoiser), self._agreed_precision(precision, group)
        config = sampler or self.known.sampler

        def drawn(indices: Sequence[int], at_once: int) -> Tensor:
            options: dict[str, Any] = {"seed": seed, "config": config, "batch_size": at_once, "device": self.device}
            with computing_in(networks, chosen, self.device):
                batches = draw(denoiser, self.shape, indices, class_weights=weights, **options)
                return torch.cat([finish(batch) for batch in batches])

        size = batch_size or self.default_batch_size
        with progress_bar(f"sample {self.known.method}", total=count, show=show and group.is_main) as advance:
            for start in range(0, count, size * group.count):
                stop = min(start + size * group.count, count)
                share = math.ceil((stop - start) / group.count)
                # the last batch may not divide: every process draws the same number, and the surplus is cut off
                mine = start + group.rank * share
                indices = [first + min(index, stop - 1) for index in range(mine, mine + share)]
                yield group.gather(self._fitting(drawn, indices)).cpu()[: stop - start]
                advance(stop - start)

    def _fitting(self, drawn: Callable[[Sequence[int], int], Tensor], indices: Sequence[int]) -> Tensor:
        """``drawn(indices, at_once)`` with as many at once as the device's memory holds, found by halving."""
        while True:
            at_once = min(len(indices), self._fits)
            try:
                return drawn(indices, at_once)
            except torch.OutOfMemoryError as error:
                if at_once == 1:
                    raise NomadiffError(f"a single image does not fit into the memory of {self.device}") from error
            # here, not above: until the error is gone it holds on to what filled the memory
            self._fits = at_once // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            say(f"{at_once} images at once do not fit into the memory of {self.device}: drawing {self._fits} at once")

    def drawing_precision(self, precision: str) -> str:
        """What :meth:`sample_batches` computes in: "fp32", "bf16" or "fp16"; see there."""
        return drawing_precision(precision, self.denoiser, self.known, self.device)

    def _agreed_precision(self, precision: str, group: Processes) -> str:
        chosen = self.drawing_precision(precision)
        if precision != "auto" or group.count == 1 or not may_draw_in_half(self.known):
            return chosen
        # machines of one group may differ in what is fast, and a set is of one precision: the main process chooses
        index = list(AUTOCAST).index(chosen) if group.is_main else 0
        return list(AUTOCAST)[int(group.total(torch.tensor(index, device=group.device)))]

    def _decoded(self, drawn: Tensor) -> Tensor:
        """Images of what the network drew: uint8 on the model's device."""
        if not self.draws_latents:
            return to_uint8(drawn)
        return self.autoencoder.decode(self._raw(drawn)).to(self.device)

    def _raw(self, drawn: Tensor) -> Tensor:
        return _space_of(self.known).raw(drawn)

    def drawn_classes(
        self,
        indices: Sequence[int],
        seed: int,
        class_label: int | str | None = None,
        *,
        source: int | str = 0,
        classes: str | None = None,
    ) -> Tensor | None:
        """The class of each image that :meth:`sample` draws for these indices; None without class labels.

        Args:
            indices: which images of the set.
            seed: seed of the set.
            class_label, source, classes: as for :meth:`sample_batches`.

        Returns:
            int64 ``(len(indices),)``: labels as sample sets are stored with, see :attr:`class_names`.
        """
        if not self.known.classes:
            return None
        weights = class_weights(self.known, self.source_index(source), class_label=class_label, classes=classes)
        noise = SampleNoise(seed, indices)
        noise.normal(self.shape)  # the latent comes first in every stream
        return stored_labels(self.known, drawn_classes(noise, weights, len(indices)))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of label ``k`` of a sample set at index ``k``; None if classes are known by their numbers."""
        return self.known.stored_class_names

    @property
    def default_batch_size(self) -> int:
        """How many images are drawn at once unless the caller says: a fixed number of pixels, well below the memory."""
        pixels = math.prod(self.shape)
        budget = 1 << (18 if self.device.type == "cpu" else 21)
        return max(8, min(1024, budget // pixels))


def _space_of(known: Facts) -> LatentSpace:
    if known.latents is None:
        raise UsageError(
            f"this model draws {known.shape[0]} channels and does not name the autoencoder that makes images "
            "of them: pass --vae"
        )
    return known.latents
