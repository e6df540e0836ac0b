"""Names of files inside a set: their order, and which are hidden or lead out of it."""

from __future__ import annotations

import re

__all__ = ["LONGEST_NAME", "is_hidden", "leads_out", "natural_key"]

LONGEST_NAME = 1000  # characters: archives may hold names of 65,535, which no folder takes and no message should repeat


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder around it, is hidden; macOS puts a hidden twin beside every file of its zips."""
    return re.search(r"(^|/)(\.|__MACOSX/)", name) is not None


def leads_out(name: str) -> bool:
    """Whether a name would be outside the folder that it is unpacked in."""
    return name.startswith("/") or re.match(r"[A-Za-z]:/", name) is not None or ".." in name.split("/")


def natural_key(name: str) -> tuple:
    """Sort key that compares runs of digits as numbers; the name itself decides between ``1`` and ``01``."""
    parts = re.split(r"([0-9]+)", name)
    # a number is compared by its length, then its digits: int() refuses very long ones
    numbers = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2]]
    return (*(item for pair in zip(parts[::2], [*numbers, (0, "")]) for item in pair), name)
