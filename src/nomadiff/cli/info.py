"""``nomadiff info``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.options import SkipUnreadable

__all__ = ["info"]


def info(
    path: Annotated[str, Parameter(help="Run folder, model file, images (folder, zip, npz, npy), or a detector.")],
    *,
    detector_weights: str | None = None,
    accuracy_on: str | None = None,
    skip_unreadable: SkipUnreadable = False,
) -> Answer:
    """Say what a run, a model, a set of images or a detector is.

    An example, and another for a detector:

    nomadiff info run/

    nomadiff info cifar10-resnet56 --accuracy-on cifar10-32x32-test.zip

    Args:
        path: what to describe.
        detector_weights: File or URL of the detector's weights; checked by SHA-256.
        accuracy_on: Labelled images to measure a classifying detector's accuracy on.
        skip_unreadable: leave files out.
    """
    from nomadiff.workflows.info import describe

    text = describe(path, weights=detector_weights, accuracy_on=accuracy_on, skip_unreadable=skip_unreadable)
    return Answer(text=text, value=facts(text))
