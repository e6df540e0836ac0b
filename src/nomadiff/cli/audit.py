"""``nomadiff audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, command_line
from nomadiff.cli.next_steps import after_audit
from nomadiff.cli.options import Device, SkipUnreadable

__all__ = ["audit"]


def audit(
    images: Annotated[str, Parameter(help="Images that should be real.")],
    *,
    against: tuple[str, ...],
    trusted: str | None = None,
    detector: str | None = None,
    detector_weights: str | None = None,
    resolution: int | None = None,
    skip_unreadable: SkipUnreadable = False,
    out: Path | None = None,
    device: Device = None,
) -> Answer:
    """Estimate how much of a "real" folder comes from given synthetic sources, with intervals.

    An example:

    nomadiff audit scraped/ --against sdxl=generated/ --trusted photos/

    Args:
        images: the folder in question.
        against: Suspect synthetic sources, [name=]path.
        trusted: Images known to be real; without them there is only an upper bound.
        detector: Feature space, wavelets by default; a classifier of objects hardly sees generators' traces.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        resolution: Resize everything to this many pixels.
        skip_unreadable: leave files out.
        out: Where to write the table, such as audit.json; beside it come audit-duplicates (the pairs) and audit-images
            (every image with its scores), each as .json and .csv, and audit.html with pictures.
        device: where to compute.
    """
    from nomadiff.metrics.detectors.names import DEFAULT_DETECTOR
    from nomadiff.workflows.audit import audit_files

    found = audit_files(
        images,
        against,
        trusted=trusted,
        detector=detector or DEFAULT_DETECTOR,
        detector_weights=detector_weights,
        resolution=resolution,
        skip_unreadable=skip_unreadable,
        out=out,
        command=command_line(),
        device=device,
    )
    files: dict[str, Path] = {}
    if out is not None:
        beside = {what: out.with_name(f"{out.stem}-{what}.csv") for what in ("duplicates", "images")}
        files = {"table": out, **beside, "report": out.with_suffix(".html")}
    following = after_audit(found, images, against, trusted, out)
    return Answer(value=found.table(), files=files, verdict=found.text().splitlines(), next=following)
