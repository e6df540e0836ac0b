"""``nomadiff suggest``."""

from __future__ import annotations

from dataclasses import asdict

from nomadiff.cli.answer import Answer, given_words
from nomadiff.cli.options import Device
from nomadiff.cli.settings import Mix

__all__ = ["suggest"]


def suggest(mix: Mix, *, device: Device = None) -> Answer:
    """Say what to train on these images on this machine: preset, budget, hours, and what trouble to expect.

    An example:

    nomadiff suggest --real photos/ --synthetic sdxl=generated/

    The speed is measured: a few steps of each preset that fits, some seconds each. Nothing is written.

    Args:
        mix: sources.
        device: where to train.
    """
    from nomadiff.workflows.suggest import suggest as run

    found = run(mix, device=device)
    words = ["train", *given_words()[1:], "--method", found.method, "--preset", found.preset, "--out", "run"]
    return Answer(text=found.text(), value=asdict(found), next=words)
