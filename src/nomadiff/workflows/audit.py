"""Auditing files of images, which is what ``nomadiff audit`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nomadiff.data.image_source import ImageSource
from nomadiff.data.manifest import is_synthetic
from nomadiff.data.mix_spec import MixSpec
from nomadiff.metrics.audit import Audit, audit
from nomadiff.metrics.detectors import Detector, load_detector
from nomadiff.metrics.detectors.features import feature_cache
from nomadiff.processes import join_processes

__all__ = ["audit_files"]


def audit_files(
    images: str | ImageSource,
    against: Sequence[str | ImageSource],
    *,
    trusted: str | ImageSource | None = None,
    detector: str | Detector = "pixels",
    detector_weights: str | None = None,
    resolution: int | None = None,
    skip_unreadable: bool = False,
    device: str | None = None,
) -> Audit:
    """Audit a folder that should hold real images against suspect synthetic sources.

    Args:
        images: the folder in question, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens.
        against: suspects, ``[name=]path`` or a source.
        trusted: images known to be real.
        detector, detector_weights: feature space.
        resolution: resize everything to this many pixels.
        skip_unreadable: leave out images that cannot be read, and name them.
        device: where the detector computes.

    Returns:
        The audit. If the folder's own manifest says that it is synthetic, the first suspect's sentence says so.

    Raises:
        UsageError, DataError: the files cannot be used as asked.
    """

    def opened(spec: str | ImageSource, name: str, synthetic: bool) -> ImageSource:
        return ImageSource.open(
            spec, name=name, synthetic=synthetic, resolution=resolution, skip_unreadable=skip_unreadable
        )

    torch_device = join_processes(device).device
    folder = opened(images, "folder", True)
    suspects = {
        name: opened(spec, name, True).pixels
        for name, spec in MixSpec(real="", synthetic=tuple(against)).named_synthetic()
    }
    found = audit(
        folder.pixels,
        suspects,
        trusted=None if trusted is None else opened(trusted, "trusted", False).pixels,
        detector=load_detector(detector, weights=detector_weights, device=torch_device),
        device=torch_device,
        cache=feature_cache(),
    )
    if is_synthetic(folder.provenance.get("manifest")) and found.suspicions:
        first = found.suspicions[0]
        warned = replace(first, sentence=f"The folder's own manifest says it is synthetic. {first.sentence}")
        return replace(found, suspicions=[warned, *found.suspicions[1:]])
    return found
