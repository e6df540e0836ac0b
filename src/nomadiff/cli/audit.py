"""``nomadiff audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Device, SkipUnreadable

__all__ = ["audit"]


def audit(
    images: Annotated[str, Parameter(help="Images that should be real.")],
    *,
    against: tuple[str, ...],
    trusted: str | None = None,
    detector: str = "pixels",
    detector_weights: str | None = None,
    resolution: int | None = None,
    skip_unreadable: SkipUnreadable = False,
    out: Path | None = None,
    device: Device = None,
) -> None:
    """Estimate how much of a "real" folder comes from given synthetic sources, with intervals.

    An example:

    nomadiff audit scraped/ --against sdxl=generated/ --trusted photos/

    Args:
        images: the folder in question.
        against: Suspect synthetic sources, [name=]path.
        trusted: Images known to be real; without them shares are upper bounds.
        detector: Feature space; pixels see the traces of generators best.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        resolution: Resize everything to this many pixels.
        skip_unreadable: leave files out.
        out: Where to write the table, if anywhere.
        device: where to compute.
    """
    from nomadiff.tables import check_table
    from nomadiff.workflows.audit import audit_files

    if out is not None:
        check_table(out)
    found = audit_files(
        images,
        against,
        trusted=trusted,
        detector=detector,
        detector_weights=detector_weights,
        resolution=resolution,
        skip_unreadable=skip_unreadable,
        device=device,
    )
    print(found.text())
    if out is not None:
        found.table().write(out)
