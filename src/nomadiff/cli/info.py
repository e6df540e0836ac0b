"""``nomadiff info``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = ["info"]


def info(path: Annotated[str, Parameter(help="Run folder, model file, or images (folder, zip, npz, npy).")]) -> None:
    """Say what a run, a model or a set of images is.

    An example:

    nomadiff info run/

    Args:
        path: what to describe.
    """
    from nomadiff.experiments.describe import describe

    print(describe(path))
