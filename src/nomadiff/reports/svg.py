"""Matplotlib figures as inline SVG: text stays text, and colours are the page's variables, for light and dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from nomadiff.reports.palette import INK, MUTED, RULE, all_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["WIDTH", "drawing", "inline_svg", "quiet_axes"]

WIDTH = 340.0
"""Width of every figure in its own units; a phone shows them one to one, so 11 units of text are 11 pixels."""

# Matplotlib's own: a licence block that names web addresses, a rule for every element of the page, and clipping to the
# axes, which every figure here is drawn inside of.
_DROPPED = {"metadata", "style", "clipPath"}


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """Give an empty transparent figure, ``WIDTH x height`` units, with the common style while the block runs."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "nomadiff",
        "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
        "font.size": 11,
        "axes.unicode_minus": True,
        "text.color": INK.light,
        "axes.labelcolor": MUTED.light,
        "xtick.color": MUTED.light,
        "ytick.color": MUTED.light,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "axes.edgecolor": RULE.light,
        "axes.linewidth": 1.0,
        "axes.axisbelow": True,
        "grid.color": RULE.light,
        "grid.linewidth": 1.0,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")


def quiet_axes(axes: Axes, *, grid: str) -> None:
    """Take away all that carries no data: the frame, tick marks, every line but the grid along ``grid`` (x or y)."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(length=0)
    axes.grid(axis=grid)  # type: ignore[arg-type]


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page.

    Args:
        figure: made inside :func:`drawing`.
        description: what it shows, for readers who cannot see it.

    Returns:
        Markup with no namespace or address in it, ids that no other figure of the page has, and every colour of the
        palette as ``var(--name, #light)``.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    root = ElementTree.fromstring(drawn)
    prefix = "f" + hashlib.sha256(drawn + description.encode()).hexdigest()[:10] + "-"
    variables = {colour.light: f"var({colour.variable}, {colour.light})" for colour in all_colours()}

    used = {value[1:] for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")}

    def variable(match: re.Match[str]) -> str:
        return variables.get(match.group(0), match.group(0))

    for element in root.iter():
        for child in [child for child in element if child.tag.rpartition("}")[2] in _DROPPED]:
            element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        attributes = {}
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2]
            if name == "clip-path" or (name == "id" and value not in used):
                continue
            if name == "id":
                value = prefix + value
            elif name == "href":
                value = "#" + prefix + value[1:]
            elif name == "style":
                value = re.sub("#[0-9a-f]{6}", variable, value)
            attributes[name] = value
        element.attrib.clear()
        element.attrib.update(attributes)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
