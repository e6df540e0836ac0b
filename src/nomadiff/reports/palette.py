"""The colours of every plot and page, for light and for dark mode: a method has the same colour everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["INK", "MUTED", "PAGE_COLOURS", "PAPER", "RULE", "Colour", "all_colours", "method_colours"]


@dataclass(frozen=True)
class Colour:
    """A CSS variable and its value in light and in dark mode.

    ``light`` is unique among all colours: plots are drawn with it and then refer to the variable instead.
    """

    variable: str
    light: str
    dark: str


PAPER = Colour("--paper", "#fdfdfb", "#16181b")
INK = Colour("--ink", "#1d2126", "#e7e6e2")
MUTED = Colour("--muted", "#5d646f", "#a0a6af")
RULE = Colour("--rule", "#e2e3e1", "#30343a")

PAGE_COLOURS = (
    PAPER,
    INK,
    MUTED,
    RULE,
    Colour("--panel", "#f5f5f2", "#1d2024"),
    Colour("--good", "#23775a", "#6fc6a3"),
    Colour("--bad", "#ad3f35", "#ec9288"),
)

# Distinguishable with any colour vision: they differ in lightness as well as in hue.
_METHODS = {
    "real": Colour("--arm-real", "#787f89", "#9aa1ac"),
    "dm": Colour("--arm-dm", "#3a6ea5", "#82b3e6"),
    "sda": Colour("--arm-sda", "#c4722a", "#eaa567"),
    "casd": Colour("--arm-casd", "#16846b", "#58c9a9"),
}
_OTHERS = (
    Colour("--arm-1", "#7a5aa6", "#b79ae0"),
    Colour("--arm-2", "#b24a78", "#e78fb4"),
    Colour("--arm-3", "#8a7a1f", "#cfbf5f"),
    Colour("--arm-4", "#2f8796", "#74c7d4"),
    Colour("--arm-5", "#80564a", "#c79d90"),
    Colour("--arm-6", "#4a5fb8", "#98a8ee"),
)


def method_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name: fixed for real, dm, sda and casd; the others share six, in order of first appearance."""
    colours: dict[str, Colour] = {}
    others = 0
    for name in names:
        if name in colours:
            continue
        if name in _METHODS:
            colours[name] = _METHODS[name]
        else:
            colours[name] = _OTHERS[others % len(_OTHERS)]
            others += 1
    return colours


def all_colours() -> list[Colour]:
    """Every colour, for the page's style sheet and for the plots that refer to it."""
    return [*PAGE_COLOURS, *_METHODS.values(), *_OTHERS]
