"""Figures in the papers' own layouts, as files: the style of a panel, and writing a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nomadiff.files import atomic_path
from nomadiff.reports.palette import MUTED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["keep_figure", "logarithmic", "quiet_panel"]


def quiet_panel(axes: Axes) -> None:
    """The common style of a panel: two faint spines, a faint horizontal grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE.light)
    axes.tick_params(colors=MUTED.light)
    axes.grid(axis="y", color=RULE.light, linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def keep_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``<path>.png`` and ``<path>.svg``, the same bytes every time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "nomadiff"}):
        for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], bbox_inches="tight", **options)
