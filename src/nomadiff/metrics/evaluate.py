"""Score generated images against real ones: all metrics in one call.

``reference`` should be real images that the generator was not trained on: against its training set, a generator that
copies looks perfect. ``train`` is what it was trained on, and is used for replication only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.lpips import LPIPS
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.processes import Processes

__all__ = ["evaluate"]


@runtime_checkable
class Sampled(Protocol):
    """What samples are drawn from: a :class:`~nomadiff.models.model.Model`."""

    def sample(self, count: int, seed: int) -> Tensor: ...


def evaluate(
    samples: Tensor | Iterable[Tensor] | ImageSource | Sampled,
    reference: Tensor | ImageSource,
    *,
    train: Tensor | ImageSource | None = None,
    count: int = 1000,
    seed: int = 0,
    detector: str | Detector = "digits",
    classifier: str | Detector | None = None,
    k: int = 5,
    convention: str = "prdc",
    quantile: float = 0.05,
    interval: float | None = None,
    extra: Sequence[str] = (),
    lpips: LPIPS | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    cache: str | Path | None = None,
    processes: Processes | None = None,
    allow_train_as_reference: bool = False,
) -> dict[str, Any]:
    """Score ``samples`` against ``reference``. For many sample sets use one :class:`ReferenceSet`.

    Args:
        samples: generated images, uint8 ``(N, C, H, W)``, batches of them straight from a sampler, a source of them, or
            a model to draw them from.
        reference: held-out real images, uint8, of the same size, or a source of them.
        train: the real images the generator was trained on; without them there is no ``replication``.
        count, seed: of the samples to draw, where a model is given.
        detector: name of a detector, or one.
        classifier: for the class composition; by default the detector itself where it classifies.
        k: neighbour of precision, recall, density and coverage.
        convention: ``"prdc"`` or ``"kynkaanniemi"``, see :mod:`~nomadiff.metrics.manifold`.
        quantile: rate of replication that fresh real data scores.
        interval: level of confidence intervals, 0.95 for instance: every metric then has ``<metric>_low`` and
            ``<metric>_high``, see :mod:`~nomadiff.metrics.intervals`.
        extra: further metrics, of :data:`~nomadiff.metrics.reference.EXTRAS`: ``"kid"`` (``kid`` on the original
            Inception, else ``kd_<detector>``) and ``"ssim"`` (see :mod:`~nomadiff.metrics.pairs`).
        lpips: the network for LPIPS over the same pairs as SSIM.
        device: where a detector given by name computes.
        batch_size: images to a detector's batch.
        cache: folder where features are kept between runs.
        processes: share the detector's work out over these processes; all of them must call this.
        allow_train_as_reference: accept a reference of which more than half is the training set.

    Returns:
        ``fd_<detector>`` (``fid`` for the verified original), ``precision``, ``recall``, ``density``, ``coverage``;
        with ``train`` also ``replication``; with a classifier also ``composition_tv`` (total variation distance to the
        reference's composition); ``composition`` (share of each class, or None); and ``meta``: ``count``,
        ``reference_count``, ``detector``, ``detector_sha256``, ``reference_sha256`` and the settings, without which no
        figure can be compared, and with ``train`` the ``nearest`` samples: ``sample``, ``train`` and ``distance`` of
        the ten that come closest to a training image.

    Raises:
        UsageError: wrong kind or size of images, too few of them, or a reference that is mostly the training set.
        DataError: a weight file is absent or damaged.
    """
    against = ReferenceSet(
        reference,
        train=train,
        detector=detector,
        classifier=classifier,
        k=k,
        convention=convention,
        quantile=quantile,
        device=device,
        batch_size=batch_size,
        cache=cache,
        processes=processes,
        allow_train_as_reference=allow_train_as_reference,
    )
    if isinstance(samples, Sampled):
        samples = samples.sample(count, seed)
    return against.evaluate(samples, interval=interval, extra=extra, lpips=lpips)
