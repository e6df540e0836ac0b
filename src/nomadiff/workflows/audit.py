"""Auditing files of images, which is what ``nomadiff audit`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.manifest import is_synthetic
from nomadiff.data.mix_spec import MixSpec
from nomadiff.metrics.audit import FOLDER, Audit, audit
from nomadiff.metrics.detectors.features import feature_cache
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.duplicates import Duplicates
from nomadiff.processes import join_processes
from nomadiff.reports.page import Finding, Gallery, Report
from nomadiff.tables import Table, check_table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.score_table import check_page_beside

__all__ = ["audit_files", "audit_report", "check_audit_files"]

_SHOWN = 24  # pairs, or images, of each kind in the report


def audit_files(
    images: str | ImageSource,
    against: Sequence[str | ImageSource],
    *,
    trusted: str | ImageSource | None = None,
    detector: str | Detector = DEFAULT_DETECTOR,
    detector_weights: str | None = None,
    resolution: int | None = None,
    skip_unreadable: bool = False,
    out: str | Path | None = None,
    command: str = "",
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
        out: where to write the table, such as ``audit.json``, and beside it ``audit-duplicates.json`` (the pairs),
            ``audit-images.json`` (every image with its scores), each also as ``.csv``, and ``audit.html`` with
            pictures.
        command: printed in the report.
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

    if out is not None:
        check_audit_files(out)
    torch_device = join_processes(device).device
    folder = opened(images, FOLDER, True)
    suspects = {
        name: opened(spec, name, True) for name, spec in MixSpec(real="", synthetic=tuple(against)).named_synthetic()
    }
    known = None if trusted is None else opened(trusted, "trusted", False)
    found = audit(
        folder.pixels,
        {name: source.pixels for name, source in suspects.items()},
        trusted=None if known is None else known.pixels,
        detector=load_detector(detector, weights=detector_weights, device=torch_device),
        device=torch_device,
        cache=feature_cache(),
    )
    found = replace(found, names={FOLDER: folder.names, **{name: source.names for name, source in suspects.items()}})
    if is_synthetic(folder.provenance.get("manifest")) and found.suspicions:
        first = found.suspicions[0]
        warned = replace(first, sentence=f"The folder's own manifest says it is synthetic. {first.sentence}")
        found = replace(found, suspicions=[warned, *found.suspicions[1:]])
    if out is not None:
        table, pairs, scores, page = _files(out)
        found.table().write(table)
        found.duplicates().write(pairs)
        found.most_synthetic().write(scores)
        sources = {FOLDER: folder, **suspects} | ({} if known is None else {"trusted": known})
        audit_report(found, sources, command=command).write(page)
    return found


def check_audit_files(out: str | Path) -> None:
    """Find out before any work whether the files of an audit can be written.

    Raises:
        UsageError, NomadiffError: they cannot.
    """
    *tables, _ = _files(out)
    for table in tables:
        check_table(table)
    check_page_beside(Path(out))


def _files(out: str | Path) -> tuple[Path, Path, Path, Path]:
    out = Path(out)
    duplicates, images = (out.parent / f"{out.stem}-{what}.json" for what in ("duplicates", "images"))
    return out, duplicates, images, out.parent / f"{out.stem}.html"


def audit_report(found: Audit, sources: Mapping[str, ImageSource], *, command: str = "") -> Report:
    """The audit as a page with pictures.

    Args:
        found: the audit.
        sources: the folder in question (``"folder"``), every suspect, and what was ``"trusted"``, by name.
        command: what made it.
    """
    folder = sources[FOLDER]
    galleries = [_pairs(found, found.within, FOLDER, sources)]
    for item in found.suspicions:
        galleries.append(_pairs(found, item.copies, item.source, sources))
        if item.scores is not None:
            most = item.scores.argsort(descending=True, stable=True)[:_SHOWN].tolist()
            pictures = [(folder.pixels[i : i + 1], f"{found.name_of(i)}: {item.scores[i]:.2f}") for i in most]
            told = "The score is what a classifier that did not see the image gives the source, were both as frequent."
            galleries.append(Gallery(f"Images that look most like {item.source}", told, pictures))
    doubled = found.within.count
    findings = [
        *(Finding(sentence, _verdict(doubled)) for sentence in found.text().splitlines()[: -len(found.suspicions)]),
        *(
            Finding(
                f"{item.source}: {item.sentence}", _verdict(bool(item.share and item.share.low) or item.copies.count)
            )
            for item in found.suspicions
        ),
    ]
    return Report(
        title="Is this folder real?",
        subtitle=f"{found.count:,} images; features: {found.detector}",
        table=Table(meta=found.table().meta),
        findings=findings,
        galleries=[gallery for gallery in galleries if gallery.pictures],
        command=command,
        versions=versions(),
        notes=(
            "Looked for are copies that were saved again, resized, mirrored, or cropped by up to about 5 % of a side; "
            "not turned ones, nor ones in other colours. With hardly any contrast many are found only if identical.",
            "A source that is not among the suspects, or looks real, is not found.",
            "Without trusted real images there is only an upper bound on a source's share: less would look the same.",
        ),
        provenance=[{"name": name, **_plain(source)} for name, source in sources.items()],
    )


def _verdict(bad: object) -> Literal["bad", "neutral"]:
    return "bad" if bad else "neutral"


def _plain(source: ImageSource) -> dict[str, Any]:
    return {name: source.provenance.get(name) for name in ("spec", "count", "content_hash")}


def _pairs(found: Audit, duplicates: Duplicates, of: str, sources: Mapping[str, ImageSource]) -> Gallery:
    """The first pairs of near-duplicates, in the order of the files."""
    pictures = []
    for (one, other), kind in zip(duplicates.pairs[:_SHOWN].tolist(), duplicates.kinds):
        pair = torch.stack([sources[FOLDER].pixels[one], sources[of].pixels[other]])
        pictures.append((pair, f"{found.name_of(one)} and {found.name_of(other, of)}: {kind}"))
    total = len(duplicates.kinds)
    told = f"The first {_SHOWN} of {total:,} pairs." if total > _SHOWN else ""
    title = "Near-duplicates within the folder" if of == FOLDER else f"Near-duplicates of {of}"
    return Gallery(title, told, pictures)
