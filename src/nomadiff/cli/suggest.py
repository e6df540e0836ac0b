"""``nomadiff suggest``."""

from __future__ import annotations

import shlex
import sys

from nomadiff.cli.options import Device, Mix

__all__ = ["suggest"]


def suggest(mix: Mix, *, device: Device = None) -> None:
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
    print(found.text())
    words = ["nomadiff", "train", *sys.argv[2:], "--method", found.method, "--preset", found.preset, "--out", "run"]
    print(f"next:     {shlex.join(words)}")
