"""Few waits and few kernels: batches that lie where they are trained on, and one pass over all gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nomadiff.data.source_mix import Batch, SourceMix
from nomadiff.denoiser import check_labels
from nomadiff.devices import free_memory, sent

__all__ = ["Feed", "clean_gradients", "kernels_by_trial"]

_LONG = 5e16
"""Operations of a training from which trials at its start are taken to pay on a GPU: minutes of work."""
_SHARE = 4  # one over the share of a device's free memory that images may take


class Feed:
    """A mix's batches on a device, its labels checked.

    On a GPU images live there from the start where they take less than a quarter of its free memory. Otherwise, as all
    labels, they are copied from pinned memory: the host makes the next batch while the device works on this one.

    Args:
        mix: the images.
        device: where batches go.
        sources: labels that the network knows, 0 if it is told none.
        classes: likewise.
    """

    def __init__(self, mix: SourceMix, device: torch.device, *, sources: int, classes: int) -> None:
        self._device, self._sources, self._classes = device, sources, classes
        free = free_memory(device) if device.type == "cuda" else None
        size = sum(source.images.nbytes for source in mix.sources)
        self._mix = mix.with_images_on(device) if free is not None and _SHARE * size < free else mix

    def batch(self, start: int, count: int, seed: int) -> Batch:
        """As :meth:`~nomadiff.data.source_mix.SourceMix.batch`.

        Raises:
            UsageError: a label is out of range. A device would not say so: it would be waited for.
        """
        images, source, labels, floors = self._mix.batch(start, count, seed)
        if self._sources:
            check_labels("source", source, self._sources)
        if self._classes:
            assert labels is not None
            check_labels("class_label", labels, self._classes)
        others = [None if each is None else sent(each, self._device) for each in (labels, floors)]
        return Batch(sent(images, self._device), sent(source, self._device), *others)


def clean_gradients(gradients: Sequence[Tensor]) -> None:
    """Make zeros of what is not finite: EDM2's rule.

    EDM turns infinity into 1e5, which Adam's second moment would remember for long. On a GPU all gradients are joined
    for it: a few kernels instead of one for each of hundreds of tensors.

    Args:
        gradients: float32, changed in place.
    """
    on_gpu = [gradient for gradient in gradients if gradient.device.type == "cuda"]
    _clean_joined([_flat(gradient) for gradient in on_gpu])
    for gradient in gradients:
        if gradient.device.type != "cuda":
            torch.nan_to_num(gradient, nan=0, posinf=0, neginf=0, out=gradient)


def _flat(tensor: Tensor) -> Tensor:
    """All values of a tensor without gaps in the order in which they lie in memory."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True)
    return tensor.permute(order).view(-1)


def _clean_joined(views: list[Tensor]) -> None:
    if views:
        joined = torch.cat(views)
        torch.nan_to_num(joined, nan=0, posinf=0, neginf=0, out=joined)
        torch._foreach_copy_(views, joined.split([len(view) for view in views]))


@contextmanager
def kernels_by_trial(device: torch.device, operations: float = math.inf) -> Iterator[None]:
    """Let cuDNN try its convolutions on the first batch and keep the fastest: all batches have the same shapes.

    On an H200 those of ``cifar10`` took 17 s; its convolutions took 73 ms of a step with them and 93 without.

    Args:
        device: where convolutions run.
        operations: of all that is computed so; for little the trials do not pay, and cuDNN is left as it is.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or (device.type == "cuda" and operations >= _LONG)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
